"""Scales of channels between two layers: no code overflows, and the output errs less."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qbench_fqvit.balance import balanced


def output_error(x: Tensor, weight: Tensor, scale: Tensor) -> float:
    """Error of ``x @ weight.T`` with codes of both, a scale a channel and a scale a row."""
    codes = (x / scale).round().clamp(-127, 127)
    folded = weight * scale
    step = folded.abs().amax(1, keepdim=True) / 127
    found = codes @ ((folded / step).round() * step).T
    return float((found - x @ weight.T).square().mean())


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0, 1.5])
def test_it_errs_no_more_than_either_end(spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    gains = torch.exp(spread * torch.randn(96, generator=generator))
    x = torch.randn(512, 96, generator=generator) * gains
    weight = torch.randn(64, 96, generator=generator)
    largest = x.abs().amax(0)
    found = output_error(x, weight, balanced(largest, weight))
    assert found <= 1.05 * output_error(x, weight, largest.max().expand(96) / 127)
    assert found <= 1.05 * output_error(x, weight, largest / 127)


def test_no_code_exceeds_127_and_dead_channels_have_a_scale() -> None:
    largest = torch.tensor([0.0, 1e-9, 1.0, 50.0])
    scale = balanced(largest, torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    assert bool((scale > 0).all())
    assert bool((largest / scale <= 127 * (1 + 1e-6)).all())
    assert balanced(torch.zeros(4), torch.ones(2, 4)).isfinite().all()
    assert bool((balanced(torch.zeros(4), torch.ones(2, 4)) > 0).all())
