"""Absolute maximum and moving average against NumPy loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qbench_ranges.extremes import AbsoluteMaximum, MovingAverage
from qbench_suite import Quantizer

ABSMAX, AVERAGE = AbsoluteMaximum(name="absmax"), MovingAverage(name="moving_average")


@settings(max_examples=40)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(0, 10**6))
def test_absmax_is_that_of_all_batches(
    quantizer: Callable[[str], Quantizer], sizes: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    batches = [rng.normal(size=(3, n)).astype(np.float32) for n in sizes]
    observer = ABSMAX.observer(quantizer("int8-channel"))
    for batch in batches:
        observer.observe(torch.from_numpy(batch))
    whole = np.concatenate(batches, axis=1)
    assert observer.range().low.tolist() == whole.min(axis=1).tolist()
    assert observer.range().high.tolist() == whole.max(axis=1).tolist()


@settings(max_examples=40)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 10**6))
def test_moving_average_is_the_recurrence(
    quantizer: Callable[[str], Quantizer], sizes: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    batches = [rng.normal(size=(2, n)).astype(np.float32) for n in sizes]
    observer = AVERAGE.observer(quantizer("int8-channel"))
    low, high = batches[0].min(axis=1), batches[0].max(axis=1)
    observer.observe(torch.from_numpy(batches[0]))
    for batch in batches[1:]:
        observer.observe(torch.from_numpy(batch))
        low, high = 0.9 * low + 0.1 * batch.min(axis=1), 0.9 * high + 0.1 * batch.max(axis=1)
    np.testing.assert_allclose(observer.range().low.numpy(), low, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(observer.range().high.numpy(), high, rtol=1e-5, atol=1e-6)


def test_a_batch_without_finite_values_leaves_the_average(
    quantizer: Callable[[str], Quantizer],
) -> None:
    observer = AVERAGE.observer(quantizer("int8-channel"))
    for values in ([math.nan, math.nan], [1.0, 3.0], [math.inf, math.nan], [2.0, 5.0]):
        observer.observe(torch.tensor([values]))
    low, high = observer.range()
    np.testing.assert_allclose(low, 1.1, rtol=1e-6)
    np.testing.assert_allclose(high, 3.2, rtol=1e-6)
