"""Image files as PIL images and as tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from qbench_suite import BrokenImageError

T = TypeVar("T")


def open_image(path: Path) -> Image.Image:
    """Return an image as 8-bit RGB, of its own size, as the loaders of ImageNet give it.

    Gray is repeated, CMYK is converted, 16-bit gray is scaled to 8 bits; a transparent pixel keeps
    its colour and loses its transparency. The rotation that EXIF data asks for is not applied.

    Raises:
        BrokenImageError: the file is missing, no image, cut short, absurdly large or without pixels.
    """
    return _decode(path, _rgb)


def read_image(path: Path) -> Tensor:
    """Return the central square of an image: (3, side, side) float32, RGB, pixels in 0…1.

    Colours are those of ``open_image``, but 16-bit gray keeps its 16 bits.

    Raises:
        BrokenImageError: as in ``open_image``.
    """
    return _decode(path, _square)


def _decode(path: Path, convert: Callable[[Image.Image], T]) -> T:
    try:
        with Image.open(path) as image:
            image.load()
            if not min(image.size):
                raise ValueError(f"{image.width}x{image.height} pixels")
            return convert(image)
    except MemoryError:
        raise
    except Exception as error:  # a decoder raises whatever its input makes it stumble over
        raise BrokenImageError(
            f"An image file decodes whole; {path} does not ({type(error).__name__}: {error}). Replace "
            "it, or delete it."
        ) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = Image.fromarray((_gray(image) * 255).round().astype(np.uint8))
    if "transparency" in image.info:
        # Straight to RGB gives the same colours, and a warning.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _square(image: Image.Image) -> Tensor:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    if square.mode.startswith("I"):
        return torch.from_numpy(_gray(square)).expand(3, -1, -1)
    pixels = np.array(_rgb(square), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _gray(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Pixels of 16 bits in 0…1; Pillow turns them into 8 bits by saturating, which leaves white."""
    return (np.asarray(image, dtype=np.float32) / 65535).clip(0, 1)
