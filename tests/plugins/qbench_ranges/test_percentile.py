"""Percentiles against ``numpy.percentile`` of all the data: exact for one batch, bounded for several."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qbench_ranges.percentile import Percentile
from qbench_suite import Quantizer

Make = Callable[[str], Quantizer]
PERCENTS = st.sampled_from([0.5, 10.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0])


def expected(values: np.ndarray, percent: float) -> np.ndarray:
    return np.percentile(np.abs(values.astype(np.float64)), percent, axis=1)


@settings(max_examples=80, deadline=None)
@given(PERCENTS, st.integers(1, 400), st.integers(0, 10**6))
def test_one_batch_is_exact(quantizer: Make, percent: float, size: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_t(2, size=(3, size)).astype(np.float32)
    rule = Percentile(name="p", percent=percent)
    observer = rule.observer(quantizer("int8-channel"))
    observer.observe(torch.from_numpy(x))
    bound = expected(x, percent)
    for low, high in (
        observer.range(),
        rule.range_of(torch.from_numpy(x), quantizer("int8-tensor")),
    ):
        np.testing.assert_allclose(high, np.minimum(x.max(axis=1), bound), rtol=2e-7)
        np.testing.assert_allclose(low, np.maximum(x.min(axis=1), -bound), rtol=2e-7)


@settings(max_examples=80, deadline=None)
@given(PERCENTS, st.lists(st.integers(1, 200), min_size=2, max_size=6), st.integers(0, 10**6))
def test_several_batches_are_within_the_stated_error(
    quantizer: Make, percent: float, sizes: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    batches = [
        (rng.standard_t(2, size=(2, n)) * rng.uniform(0.1, 9)).astype(np.float32) for n in sizes
    ]
    observer = Percentile(name="p", percent=percent).observer(quantizer("int8-channel"))
    for batch in batches:
        observer.observe(torch.from_numpy(batch))
    whole = np.concatenate(batches, axis=1)
    bound, amax = expected(whole, percent), np.abs(whole).max(axis=1)
    low, high = observer.range()
    got = np.maximum(-low.numpy(), high.numpy())
    assert (np.abs(got - bound) <= 0.0005 * amax).all()


def test_hundred_percent_is_the_absolute_maximum(quantizer: Make) -> None:
    batches = [torch.randn(2, 77), torch.randn(2, 77)]
    observer = Percentile(name="p", percent=100.0).observer(quantizer("int8-channel"))
    for batch in batches:
        observer.observe(batch)
    whole = torch.cat(batches, dim=1)
    assert torch.equal(observer.range().high, whole.amax(1))
    assert torch.equal(observer.range().low, whole.amin(1))


def test_rows_of_unequal_length_have_percentiles_of_their_own(quantizer: Make) -> None:
    x = torch.full((2, 50), torch.nan)
    x[0, :50], x[1, :11] = torch.arange(50.0), torch.arange(11.0)
    high = Percentile(name="p", percent=90.0).range_of(x, quantizer("int8-channel")).high
    assert high.tolist() == pytest.approx([44.1, 9.0])


@pytest.mark.parametrize("groups", [9000, 200_000])
def test_many_groups_keep_a_bounded_error(quantizer: Make, groups: int) -> None:
    x = torch.randn(groups, 3)
    observer = Percentile(name="p", percent=50.0).observer(quantizer("int8-channel"))
    observer.observe(x[:, :2])
    observer.observe(x[:, 2:])
    low, high = observer.range()
    got = torch.maximum(-low, high)
    error = (got - x.abs().median(dim=1).values).abs() / x.abs().amax(dim=1)
    assert float(error.max()) <= 1 / 64
