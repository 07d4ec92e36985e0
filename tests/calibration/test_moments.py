"""Sums over patches: those of float64 arithmetic, however large or small the patches are."""

from __future__ import annotations

import math

import pytest
import torch

from qbench_suite.calibration.moments import MomentSums, SeenInputs

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [1.0, 1e5, 1e7, 1e20, 1e38, 1e-5, 1e-7, 1e-20, 1e-37])
@pytest.mark.parametrize("gain", [1.0, 1e20, 1e-20])
def test_sums_are_those_of_float64(size: float, gain: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x_hat, x = (size * torch.rand(2, 30, 4, generator=generator) for _ in range(2))
    weight = gain * torch.randn(2, 3, 4, generator=generator)
    sums = MomentSums.empty(2, 4, CPU)
    sums.add(x_hat[:, :20], x[:, :20], weight)
    sums.add(x_hat[:, 20:], x[:, 20:], weight)
    a, b, w = x_hat.double(), x.double(), weight.double()
    close = {"rtol": 1e-4, "atol": 0.0}
    torch.testing.assert_close(sums.moments, a.mT @ a, **close)
    gaps = (a - b).abs()
    assert bool(((sums.shift - a.mT @ (a - b)).abs() <= 1e-5 * (a.mT @ gaps)).all())
    assert sums.power == pytest.approx(float((b @ w.mT).square().sum()), rel=1e-4)
    assert sums.inherited == pytest.approx(float(((a - b) @ w.mT).square().sum()), rel=1e-4)
    assert sums.patches == 30


def test_a_gap_beyond_float32_is_summed() -> None:
    x = torch.full((1, 2, 1), 3e38)
    sums = MomentSums.empty(1, 1, CPU)
    sums.add(x, -x, torch.ones(1, 1, 1))
    assert float(sums.shift) == pytest.approx(2 * 3e38 * 6e38)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("model", [0, 1])
def test_patches_that_are_not_finite_are_passed_over(value: float, model: int) -> None:
    pair = [torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(n)) for n in (0, 1)]
    kept = [part[:, [0, 1, 2, 4]] for part in pair]
    pair[model][1, 3, 2] = value
    spoiled, whole = MomentSums.empty(2, 3, CPU), MomentSums.empty(2, 3, CPU)
    spoiled.add(*pair, torch.ones(2, 1, 3))  # type: ignore[misc]
    whole.add(*kept, torch.ones(2, 1, 3))  # type: ignore[misc]
    assert spoiled.patches == whole.patches == 4
    assert torch.equal(spoiled.moments, whole.moments)
    assert (spoiled.power, spoiled.inherited) == (whole.power, whole.inherited)


def test_nothing_and_zeros_add_nothing() -> None:
    sums = MomentSums.empty(1, 3, CPU)
    sums.add(torch.empty(1, 0, 3), torch.empty(1, 0, 3), torch.ones(1, 2, 3))
    sums.add(torch.full((1, 2, 3), math.nan), torch.zeros(1, 2, 3), torch.ones(1, 2, 3))
    assert sums.patches == 0
    sums.add(torch.zeros(1, 4, 3), torch.zeros(1, 4, 3), torch.ones(1, 2, 3))
    assert sums.patches == 4
    assert not sums.moments.any()


def test_a_sample_without_rows_is_none() -> None:
    seen = SeenInputs.empty(1, 3, CPU)
    assert seen.sample() == (None, None)
    seen.rows += [(torch.empty(1, 0, 3), torch.empty(1, 0, 3))] * 2
    assert seen.sample() == (None, None)
    seen.rows.append((torch.ones(1, 2, 3), torch.zeros(1, 2, 3)))
    quantized, float_ = seen.sample()
    assert quantized is not None
    assert float_ is not None
    assert quantized.shape == float_.shape == (1, 2, 3)
