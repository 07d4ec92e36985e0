"""Ranges against NumPy, and tensors that have hardly any."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qbench_suite.metrics import RangeMetrics, range_metrics

ANY_FLOAT32 = arrays.arrays(np.float32, st.integers(0, 30), elements=st.floats(width=32))


@given(ANY_FLOAT32)
def test_range_is_its_formula(x: np.ndarray) -> None:
    found = range_metrics(torch.from_numpy(x))
    assert found.nan_count == np.isnan(x).sum()
    assert found.inf_count == np.isinf(x).sum()
    finite = x[np.isfinite(x)].astype(np.float64)
    if not len(finite):
        assert (found.min, found.max, found.absmax, found.dynamic_range_db) == (None,) * 4
        return
    assert (found.min, found.max) == (finite.min(), finite.max())
    magnitudes = np.abs(finite)
    assert found.absmax == magnitudes.max()
    if magnitudes.any():
        expected = 20 * math.log10(magnitudes.max() / magnitudes[magnitudes > 0].min())
        assert found.dynamic_range_db == pytest.approx(expected, rel=1e-9)
    else:
        assert found.dynamic_range_db is None


def test_zeros_have_no_dynamic_range() -> None:
    assert range_metrics(torch.zeros(3)) == RangeMetrics(0.0, 0.0, 0.0, None, 0, 0)


def test_equal_magnitudes_span_nothing() -> None:
    assert range_metrics(torch.tensor([2.0, -2.0, 0.0])) == RangeMetrics(-2.0, 2.0, 2.0, 0.0, 0, 0)


@pytest.mark.parametrize("x", [torch.empty(0), torch.tensor([math.nan, math.inf])])
def test_without_a_finite_element_there_is_no_range(x: torch.Tensor) -> None:
    found = range_metrics(x)
    assert (found.min, found.max, found.absmax, found.dynamic_range_db) == (None,) * 4


def test_subnormals_count() -> None:
    found = range_metrics(torch.tensor([1.0, 1e-45]))
    assert found.dynamic_range_db == pytest.approx(-20 * math.log10(2**-149))


def test_float64_keeps_its_range() -> None:
    found = range_metrics(torch.tensor([1e300, 1e-300], dtype=torch.float64))
    assert (found.absmax, found.inf_count) == (1e300, 0)
    assert found.dynamic_range_db == pytest.approx(12000)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    found = range_metrics(torch.tensor([[-4, 2], [1, 0]], dtype=dtype))
    assert (found.min, found.max, found.absmax) == (-4.0, 2.0, 4.0)
