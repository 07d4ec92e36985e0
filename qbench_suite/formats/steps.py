"""Rounding of a non-negative float to an integer step, exactly, in each of the four ways."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qbench_suite.formats.base import Rounding

#: Rounds t ≥ 0 to an integer; ``noise`` is read by stochastic rounding only.
StepRounder = Callable[[Tensor, Tensor | None], Tensor]


def nearest(t: Tensor, noise: Tensor | None) -> Tensor:
    """The nearest integer, ties to even."""
    return torch.round(t)


def away(t: Tensor, noise: Tensor | None) -> Tensor:
    """The nearest integer, ties up; never floor(t + 0.5), whose sum is rounded itself."""
    lower = torch.floor(t)
    return lower + (t - lower >= 0.5).to(t.dtype)


def stochastic(t: Tensor, noise: Tensor | None) -> Tensor:
    """The integer above with probability t − floor(t), so that an integer stays as it is."""
    if noise is None:
        raise TypeError(
            "stochastic rounding needs noise in [0, 1) of the shape of its input; got None"
        )
    lower = torch.floor(t)
    return lower + (noise < t - lower).to(t.dtype)


def truncate(t: Tensor, noise: Tensor | None) -> Tensor:
    """The integer below."""
    return torch.floor(t)


STEP_ROUNDERS: dict[Rounding, StepRounder] = {
    Rounding.NEAREST: nearest,
    Rounding.AWAY: away,
    Rounding.STOCHASTIC: stochastic,
    Rounding.TRUNCATE: truncate,
}
