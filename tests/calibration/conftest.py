"""Rounding problems: small ones of every shape, and what they cost by brute arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from qbench_suite import RoundingProblem


def make(
    groups: int = 1,
    out: int = 3,
    width: int = 5,
    *,
    rows: int = 40,
    high: int = 3,
    affine: bool = False,
    apart: float = 0.0,
    seed: int = 0,
    scale: Tensor | None = None,
    x: Tensor | None = None,
    **others: Any,
) -> tuple[RoundingProblem, Tensor, Tensor]:
    """A problem, x̂ and x (g, rows, in); ``apart``: how far the two are from one another."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(groups, out, width, generator=generator)
    if x is None:
        mix = torch.randn(groups, width, width, generator=generator)
        x = torch.randn(groups, rows, width, generator=generator) @ mix + 0.3
    x_hat = x + apart * torch.randn(x.shape, generator=generator)
    low = 0 if affine else -high
    if scale is None:
        scale = weight.abs().amax(dim=2, keepdim=True).expand_as(weight) / high
    zero = torch.full_like(weight, float(high // 2)) if affine else None
    wide = x_hat.double()
    problem = RoundingProblem(
        weight=weight,
        scale=scale,
        zero_point=zero,
        low=low,
        high=high,
        moments=wide.mT @ wide,
        shift=wide.mT @ (wide - x.double()) if apart else None,
        **others,
    )
    return problem, x_hat, x


def output_error(problem: RoundingProblem, x_hat: Tensor, x: Tensor, codes: Tensor) -> float:
    """``Σ ‖W x − W̃ x̂‖²``, written out in float64."""
    zero = 0.0 if problem.zero_point is None else problem.zero_point.double()
    rounded = (codes.double() - zero) * problem.scale.double()
    wanted = x.double() @ problem.weight.double().mT
    return float((wanted - x_hat.double() @ rounded.mT).square().sum())


@pytest.fixture
def problem() -> Callable[..., tuple[RoundingProblem, Tensor, Tensor]]:
    """``problem(…)``, see ``make``."""
    return make


@pytest.fixture
def error() -> Callable[[RoundingProblem, Tensor, Tensor, Tensor], float]:
    """``error(problem, x_hat, x, codes)``."""
    return output_error
