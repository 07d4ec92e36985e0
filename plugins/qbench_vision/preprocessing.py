"""Transforms from a PIL image to a model's input, as published with its weights, and their words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from PIL.Image import Image
from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, Grayscale, Resize

#: Makes a transform, and what it does in words.
Preprocessing = tuple[Callable[[], Callable[[Image], Tensor]], str]


def of_timm(config: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing of timm's data ``config``: input_size, crop_pct, crop_mode and so on.

    With one input channel the image is turned gray first.
    """
    make = partial(_compose, config)
    steps = filter(None, map(_step, make().transforms))
    return make, ", ".join([*steps, statistics(config["mean"], config["std"])])


def of_torchvision(preset: Any) -> Preprocessing:
    """Return the preprocessing of torchvision's ``ImageClassification`` preset."""
    resize = f"resize {_size(preset.resize_size[0])} {_filter(preset)}"
    crop = f"center crop {_crop(preset.crop_size)}"
    return lambda: preset, ", ".join([resize, crop, statistics(preset.mean, preset.std)])


def statistics(mean: Sequence[float], std: Sequence[float]) -> str:
    """Return how pixels in 0…1 are normalised: ``mean 0.485/0.456/0.406, std 0.229/0.224/0.225``."""
    return f"mean {_each(mean)}, std {_each(std)}"


def _compose(config: Mapping[str, Any]) -> Compose:
    composed = create_transform(**config, is_training=False)
    gray = [Grayscale()] if config["input_size"][0] == 1 else []
    return Compose([*gray, *composed.transforms])


def _step(transform: Any) -> str:
    """Words for one step; none for the ones that make a normalised tensor of the image."""
    if isinstance(transform, Grayscale):
        return "gray"
    if isinstance(transform, Resize):
        return f"resize {_size(transform.size)} {_filter(transform)}"
    if isinstance(transform, ResizeKeepRatio):
        how = "within" if transform.longest else "to cover"
        return f"resize {how} {_size(transform.size)} {_filter(transform)}"
    if isinstance(transform, CenterCrop):
        return f"center crop {_crop(transform.size)}"
    if isinstance(transform, CenterCropOrPad):
        return f"center crop or pad {_crop(transform.size)}"
    return ""


def _filter(transform: Any) -> str:
    return str(transform.interpolation.value)


def _size(size: int | Sequence[int]) -> str:
    """The shorter side, or height x width."""
    return str(size) if isinstance(size, int) else "x".join(map(str, size))


def _crop(size: Sequence[int]) -> str:
    """Height x width, or the side of a square."""
    return _size(size if len(set(size)) > 1 else size[0])


def _each(values: Sequence[float]) -> str:
    return "/".join(f"{value:.4g}" for value in values)
