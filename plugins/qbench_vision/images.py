"""Image files as tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

#: What Pillow raises for a file that is missing, no image, cut short or absurdly large.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_image(path: Path) -> Tensor:
    """Return the central square of an image: (3, side, side) float32, RGB, pixels in 0…1.

    Gray is repeated; a transparent pixel keeps its colour and loses its transparency.

    Raises:
        UNREADABLE: one of these, for a file that is no whole image.
    """
    with Image.open(path) as image:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
    if square.mode.startswith("I"):
        # Pillow turns 16 bits into 8 by saturating, which leaves a white image.
        gray = np.asarray(square, dtype=np.float32) / 65535
        return torch.from_numpy(gray.clip(0, 1)).expand(3, -1, -1)
    pixels = np.array(square.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
