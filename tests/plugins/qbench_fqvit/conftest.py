"""Small blocks and models with random weights, and the integer ones made of them, once a session."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from qbench_fqvit import QuantTimmVitBlock, Scheme, convert
from qbench_suite import IntegerModel

#: Family → timm's arguments of a small instance.
FAMILIES: dict[str, dict[str, Any]] = {
    "vit": {"model_name": "vit_tiny_patch16_224", "img_size": 64, "depth": 3},
    "deit": {"model_name": "deit_tiny_distilled_patch16_224", "img_size": 64, "depth": 2},
    "deit3": {"model_name": "deit3_small_patch16_224", "img_size": 64, "depth": 2, "embed_dim": 96},
    "dinov2": {
        "model_name": "vit_small_patch14_reg4_dinov2",
        "img_size": 56,
        "depth": 2,
        "embed_dim": 96,
    },
    "siglip": {
        "model_name": "vit_base_patch16_siglip_224",
        "img_size": 64,
        "depth": 2,
        "embed_dim": 90,
        "num_heads": 5,
    },
    "clip": {
        "model_name": "vit_base_patch32_clip_quickgelu_224",
        "img_size": 128,
        "depth": 2,
        "embed_dim": 96,
        "num_heads": 4,
    },
    "beit": {
        "model_name": "beit_base_patch16_224",
        "img_size": 64,
        "depth": 2,
        "embed_dim": 96,
        "num_heads": 4,
    },
    "swin": {
        "model_name": "swin_tiny_patch4_window7_224",
        "img_size": 72,
        "window_size": 4,
        "embed_dim": 32,
        "depths": (2, 2),
        "num_heads": (2, 4),
    },
}


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """``model`` for inference with weights that leave no norm, gamma or bias at its plain start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.dim() >= 2 and "table" not in name and "token" not in name:
                value.copy_(noise * value[0].numel() ** -0.5)
            else:
                # Norms and gammas stay near 1, biases and tables near 0.
                near = (
                    1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")) else 0.0
                )
                near = 0.5 if "gamma" in name else near
                value.copy_(near + 0.2 * noise)
    return model.eval()


@cache
def family_model(family: str) -> nn.Module:
    """A small model of a family."""
    model: nn.Module = timm.create_model(**FAMILIES[family], num_classes=7)
    return randomized(model)


def images(family: str, count: int = 6, seed: int = 1) -> Tensor:
    """Random images as the family's small model takes them."""
    size = FAMILIES[family]["img_size"]
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@cache
def converted(family: str, scheme: Scheme | None = None) -> IntegerModel:
    """The family's small model in integers, calibrated on two batches."""
    x = images(family, 40)
    return convert(family_model(family), [x[:24], x[24:]], scheme)


def sqnr_db(exact: Tensor, found: Tensor) -> float:
    """10 log10 of the power of ``exact`` over that of the error."""
    error = (found.double() - exact.double()).square().mean()
    return float(10 * torch.log10(exact.double().square().mean() / error))


@dataclass(frozen=True)
class Zoo:
    """What tests of models and blocks share, as they cannot import this file."""

    model: Callable[[str], nn.Module]
    images: Callable[..., Tensor]
    converted: Callable[..., IntegerModel]
    randomized: Callable[..., nn.Module]
    sqnr_db: Callable[[Tensor, Tensor], float]


@pytest.fixture(scope="session")
def zoo() -> Zoo:
    """Small models of every family, and what is done to them."""
    return Zoo(family_model, images, converted, randomized, sqnr_db)


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    """Nothing here is trained."""
    with torch.no_grad():
        yield


@cache
def _small(scheme: Scheme) -> QuantTimmVitBlock:
    from timm.models.vision_transformer import Block

    block = randomized(Block(24, 2, qkv_bias=True, init_values=1.0))
    x = torch.randn(4, 9, 24, generator=torch.Generator().manual_seed(3))
    return QuantTimmVitBlock.from_float(block, [x[:2], x[2:]], scheme)


@pytest.fixture
def small() -> Callable[..., QuantTimmVitBlock]:
    """A block of 24 channels and 2 heads of 12, schemes as arguments; a copy of its own."""

    def make(**scheme: Any) -> QuantTimmVitBlock:
        return copy.deepcopy(_small(Scheme(**scheme)))

    return make
