"""Small random rotations, zooms and shifts, so that 1,297 digits do not get learnt by heart."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

#: Largest rotation either way, in radians.
ROTATION = math.radians(12)
#: Largest zoom in or out, as a share of the size.
ZOOM = 0.12
#: Largest shift along each axis, as a share of half the image.
SHIFT = 0.18


def jitter(images: Tensor, generator: Generator) -> Tensor:
    """Return images (batch, 1, height, width), each rotated, zoomed and shifted on its own.

    Pixels stay in 0…1; what comes in from outside the image is 0, the paper.
    """
    angle, zoom, right, down = (2 * torch.rand(4, len(images), generator=generator) - 1).unbind()
    cosine = (ROTATION * angle).cos() * (1 + ZOOM * zoom)
    sine = (ROTATION * angle).sin() * (1 + ZOOM * zoom)
    first = torch.stack([cosine, -sine, SHIFT * right], dim=1)  # (batch, 3)
    second = torch.stack([sine, cosine, SHIFT * down], dim=1)  # (batch, 3)
    grid = functional.affine_grid(
        torch.stack([first, second], dim=1), list(images.shape), align_corners=False
    )
    return functional.grid_sample(images, grid, align_corners=False)
