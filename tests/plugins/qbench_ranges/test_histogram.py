"""Histogram: the counts of NumPy over the same bins, whatever the order of the batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qbench_ranges.histogram import Histogram


def of(batches: list[torch.Tensor]) -> Histogram:
    histogram = Histogram(batches[0])
    for batch in batches[1:]:
        histogram.add(batch)
    return histogram


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(-40, 40)), min_size=1, max_size=5),
    st.integers(0, 10**6),
)
def test_counts_are_numpys(sizes: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    batches = [(rng.normal(size=(2, n)) * 2.0**p).astype(np.float32) for n, p in sizes]
    histogram = of([torch.from_numpy(batch) for batch in batches])
    whole = np.concatenate(batches, axis=1).astype(np.float64)
    for row in range(2):
        amax, width = np.abs(whole[row]).max(), float(histogram.width[row])
        assert amax <= width * histogram.half < 2 * amax * (1 + 1e-12)
        edges = np.arange(-histogram.half, histogram.half + 1) * width
        expected, _ = np.histogram(whole[row], edges)
        assert histogram.counts[row].tolist() == expected.tolist()
        assert float(histogram.absmax[row]) == amax
        assert (float(histogram.range.low[row]), float(histogram.range.high[row])) == (
            whole[row].min(),
            whole[row].max(),
        )


def test_order_of_batches_does_not_matter() -> None:
    batches = [torch.randn(3, 40) * scale for scale in (0.01, 100.0, 1.0)]
    forward, backward = of(batches), of(batches[::-1])
    assert torch.equal(forward.counts, backward.counts)
    assert torch.equal(forward.width, backward.width)


def test_memory_does_not_grow_with_batches() -> None:
    histogram = of([torch.randn(2, 100)])
    shape = histogram.counts.shape
    for scale in range(1, 20):
        histogram.add(torch.randn(2, 100) * scale)
    assert histogram.counts.shape == shape == (2, 4096)
    assert int(histogram.counts.sum()) == 2 * 100 * 20


@pytest.mark.parametrize(
    ("groups", "bins"), [(1, 4096), (4096, 4096), (5000, 2048), (200_000, 128)]
)
def test_many_groups_have_fewer_bins(groups: int, bins: int) -> None:
    assert Histogram(torch.ones(groups, 1)).counts.shape == (groups, bins)


@pytest.mark.parametrize("value", [0.0, 2.0**-149, 2.0**-126, 3.4028234663852886e38])
def test_extreme_magnitudes_are_counted(value: float) -> None:
    x = torch.tensor([[value, -value, value]])
    histogram = of([x, torch.zeros(1, 2), x])
    assert int(histogram.counts.sum()) == 8
    assert float(histogram.absmax) == value
    assert bool((histogram.centers.abs() <= value).all())
    assert bool(histogram.centers.isfinite().all())
