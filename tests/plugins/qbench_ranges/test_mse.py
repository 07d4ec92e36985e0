"""The mse rule against a brute-force search with the public quantizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qbench_ranges.mse import FACTORS, LeastSquares
from qbench_suite import Axes, PerToken, Quantizer, Range

Make = Callable[[str], Quantizer]
RULE = LeastSquares(name="mse")


def long_tailed(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < 0.01, x * 8, x)


def error_of(quantizer: Quantizer, row: Tensor, factor: float) -> float:
    """Squared error of one group with its range shrunk by ``factor``, by a loop over its values."""
    range = Range(row.amin().view(1) * factor, row.amax().view(1) * factor)
    scales = quantizer.scales_of(range, (1, 1))
    got = quantizer.fake_quantize(row.view(1, -1), Axes.weight(2), scales=scales).values
    return float(((got - row).double() ** 2).sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["int8-channel", "int4-channel", "fp8_e4m3-channel", "nf4-channel",
                                  "fp4_e2m1-channel", "uint8-channel"])  # fmt: skip
def test_each_group_has_the_best_factor_of_the_grid(quantizer: Make, name: str, seed: int) -> None:
    make, x = quantizer(name), long_tailed(5, 300, seed=seed)
    low, high = RULE.range_of(x, make)
    for i, row in enumerate(x):
        errors = [error_of(make, row, factor) for factor in FACTORS]
        best = FACTORS[errors.index(min(errors))]
        assert float(high[i]) == pytest.approx(best * float(row.max()), rel=1e-6)
        assert float(low[i]) == pytest.approx(best * float(row.min()), rel=1e-6)


@pytest.mark.parametrize("mode", ["tensor", "channel", "token", "chunk128", "mx32", "nv16"])
@pytest.mark.parametrize("format", ["int4", "fp4_e2m1", "fp8_e5m2", "uint8"])
def test_the_error_is_never_above_that_of_the_absolute_maximum(
    quantizer: Make, format: str, mode: str
) -> None:
    make = quantizer(f"{format}-tensor")
    other = quantizer(f"int8-{mode}").mode
    if other.misfit(make.format):
        return
    plain, x = Quantizer(make.format, other), long_tailed(12, 200, seed=5)
    chosen = replace(plain, range_rule=RULE)
    before = (plain.fake_quantize(x).values - x).double().square().sum()
    after = (chosen.fake_quantize(x).values - x).double().square().sum()
    assert float(after) <= float(before) * (1 + 1e-6)
    if (format, mode) == ("int4", "tensor"):
        assert float(after) < 0.7 * float(before)


def test_several_batches_find_nearly_the_error_of_the_exact_search(quantizer: Make) -> None:
    make, x = quantizer("int4-channel"), long_tailed(3, 4000, seed=1)
    observer = RULE.observer(make)
    for part in x.split(1000, dim=1):
        observer.observe(part)
    whole = x.abs().amax(dim=1)
    factors = torch.maximum(-observer.range().low, observer.range().high) / whole
    for row, factor in zip(x, factors, strict=True):
        best = min(error_of(make, row, f) for f in FACTORS)
        assert error_of(make, row, float(factor)) <= 1.01 * best


def test_a_large_first_batch_is_searched_by_its_histogram(quantizer: Make) -> None:
    x = long_tailed(1, 300_000, seed=2)
    observer = RULE.observer(quantizer("int4-tensor"))
    observer.observe(x)
    factor = float(observer.range().high) / float(x.max())
    best = min(error_of(quantizer("int4-channel"), x[0], f) for f in FACTORS)
    assert error_of(quantizer("int4-channel"), x[0], factor) <= 1.01 * best


def test_scales_that_are_tied_together_are_tried_a_factor_at_a_time(quantizer: Make) -> None:
    make, x = quantizer("fp4_e2m1-nv16"), long_tailed(6, 16, seed=3)
    errors = []
    for factor in FACTORS:
        range = Range(x.amin(1) * factor, x.amax(1) * factor)
        rows = replace(make, mode=replace(make.mode, name="rows", granularity=PerToken()))
        scales = rows.scales_of(range, (6, 1))
        got = rows.fake_quantize(x, Axes.weight(2), scales=scales).values
        errors.append(((got - x).double() ** 2).sum(1))
    best = torch.stack(errors).argmin(0)
    own = torch.tensor(FACTORS)[best]
    _, high = RULE.range_of(x, make)
    share = high / x.amax(1)
    assert torch.allclose(share, own) or torch.allclose(share, torch.ones(6))
