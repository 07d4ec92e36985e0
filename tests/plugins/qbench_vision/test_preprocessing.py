"""Preprocessing: the words say what the transform does, to the pixel."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import resolve_data_config
from timm.models import get_pretrained_cfg
from torch import Tensor
from torchvision.models import MaxVit_T_Weights, ResNet50_Weights

from qbench_vision.preprocessing import of_timm, of_torchvision, statistics

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
PHOTOGRAPH = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
)


def follow(words: str, image: Image.Image) -> Tensor:
    """Do what ``words`` say, with Pillow and NumPy alone."""
    resize, crop, mean, std = words.split(", ")
    size, kind = re.fullmatch(r"resize ([\dx]+) (\w+)", resize).groups()  # type: ignore[union-attr]
    if "x" in size:
        height, width = map(int, size.split("x"))
    else:
        short = min(image.size)
        width, height = (int(int(size) * side / short) for side in image.size)
    image = image.resize((width, height), FILTERS[kind])
    side = int(crop.removeprefix("center crop "))
    left, top = round((width - side) / 2), round((height - side) / 2)
    pixels = np.asarray(image)[top : top + side, left : left + side].astype(np.float64) / 255
    low, spread = (np.array(part.split(" ")[1].split("/"), dtype=float) for part in (mean, std))
    return torch.from_numpy((pixels - low) / spread).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            "deit_tiny_patch16_224",
            "resize 248 bicubic, center crop 224, mean 0.485/0.456/0.406, std 0.229/0.224/0.225",
        ),
        (
            "vit_base_patch16_384",
            "resize 384 bicubic, center crop 384, mean 0.5/0.5/0.5, std 0.5/0.5/0.5",
        ),
        (
            "mobilenetv3_large_100",
            "resize 256 bicubic, center crop 224, mean 0.485/0.456/0.406, std 0.229/0.224/0.225",
        ),
        (
            "regnetz_c16",
            "resize 272 bicubic, center crop 256, mean 0.5/0.5/0.5, std 0.5/0.5/0.5",
        ),
    ],
)
def test_words_of_timm(model: str, words: str) -> None:
    config = get_pretrained_cfg(model)
    assert config
    make, found = of_timm(resolve_data_config(pretrained_cfg=config.to_dict()))
    assert found == words
    torch.testing.assert_close(
        make()(PHOTOGRAPH).double(), follow(words, PHOTOGRAPH), rtol=0, atol=1e-5
    )


def config(**other: object) -> dict[str, object]:
    half = (0.5, 0.5, 0.5)
    plain = {"interpolation": "bicubic", "mean": half, "std": half, "crop_pct": 0.5}
    return {"input_size": (3, 96, 96), "crop_mode": "center"} | plain | other


def test_squashed_images_lose_their_shape() -> None:
    make, words = of_timm(config(crop_mode="squash", crop_pct=1.0))
    assert words.startswith("resize 96x96 bicubic, center crop 96, ")
    torch.testing.assert_close(
        make()(PHOTOGRAPH).double(), follow(words, PHOTOGRAPH), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"crop_mode": "border"}, "resize within 192x192 bicubic, center crop or pad 96, "),
        ({"input_size": (3, 96, 64)}, "resize to cover 192x128 bicubic, center crop 96x64, "),
        ({"input_size": (1, 96, 96), "mean": (0.5,), "std": (0.2,)}, "gray, resize 192 bicubic, "),
    ],
)
def test_rarer_ways(facts: dict[str, object], words: str) -> None:
    chosen = config(**facts)
    make, found = of_timm(chosen)
    assert found.startswith(words)
    assert make()(PHOTOGRAPH).shape == chosen["input_size"]


def test_words_of_torchvision() -> None:
    make, words = of_torchvision(ResNet50_Weights.IMAGENET1K_V2.transforms())
    assert words == (
        "resize 232 bilinear, center crop 224, mean 0.485/0.456/0.406, std 0.229/0.224/0.225"
    )
    torch.testing.assert_close(
        make()(PHOTOGRAPH).double(), follow(words, PHOTOGRAPH), rtol=0, atol=1e-5
    )
    assert of_torchvision(MaxVit_T_Weights.DEFAULT.transforms())[1].startswith(
        "resize 224 bicubic, center crop 224, "
    )


def test_statistics_are_short() -> None:
    assert statistics((0.48627450980392156,), (1.0,)) == "mean 0.4863, std 1"
