"""Error metrics against the formulas in NumPy float64, and where there is little to measure."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qbench_suite import QBenchError
from qbench_suite.metrics import error_metrics

FLOATS = st.floats(-1e6, 1e6, width=32)
PAIRS = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        arrays.arrays(np.float32, n, elements=FLOATS), arrays.arrays(np.float32, n, elements=FLOATS)
    )
)


def numpy_metrics(r: np.ndarray, a: np.ndarray) -> tuple[float, float, float, float]:
    """mse, sqnr_db, cosine, max_abs_err straight from their definitions."""
    r, a = r.astype(np.float64), a.astype(np.float64)
    error = a - r
    signal, noise = float((r**2).sum()), float((error**2).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        sqnr = float(10 * np.log10(np.float64(signal) / noise)) if noise else math.inf
    norms = math.sqrt(signal) * math.sqrt(float((a**2).sum()))
    cosine = float((a * r).sum()) / norms if norms else float(not r.any() and not a.any())
    return float((error**2).mean()), sqnr, cosine, float(np.abs(error).max())


@given(PAIRS)
def test_metrics_are_their_formulas(pair: tuple[np.ndarray, np.ndarray]) -> None:
    r, a = pair
    found = error_metrics(torch.from_numpy(r), torch.from_numpy(a))
    mse, sqnr, cosine, largest = numpy_metrics(r, a)
    assert found.mse == pytest.approx(mse, rel=1e-12, abs=0)
    assert found.sqnr_db == pytest.approx(sqnr, rel=1e-9, abs=1e-9)
    assert found.cosine == pytest.approx(cosine, abs=1e-12)
    assert found.max_abs_err == largest
    assert found.nonfinite == 0


@given(PAIRS, st.randoms(use_true_random=False))
def test_only_elements_finite_in_both_count(
    pair: tuple[np.ndarray, np.ndarray], random: Random
) -> None:
    r, a = pair[0].copy(), pair[1].copy()
    specials = [np.nan, np.inf, -np.inf]
    for x in (r, a):
        for i in range(len(x)):
            if random.random() < 0.3:
                x[i] = random.choice(specials)
    found = error_metrics(torch.from_numpy(r), torch.from_numpy(a))
    both = np.isfinite(r) & np.isfinite(a)
    assert found.nonfinite == int((np.isfinite(r) & ~np.isfinite(a)).sum())
    if both.any():
        assert found.mse == pytest.approx(numpy_metrics(r[both], a[both])[0], rel=1e-12)
    else:
        assert (found.mse, found.sqnr_db, found.cosine, found.max_abs_err) == (None,) * 4


def test_infinities_that_would_cancel_are_seen() -> None:
    r = torch.tensor([1.0, 1.0, 1.0])
    found = error_metrics(r, torch.tensor([math.inf, -math.inf, 1.0]))
    assert (found.nonfinite, found.mse) == (2, 0.0)


def test_no_error_is_infinitely_good() -> None:
    x = torch.randn(7)
    found = error_metrics(x, x)
    assert (found.mse, found.sqnr_db, found.max_abs_err) == (0.0, math.inf, 0.0)
    assert found.cosine == pytest.approx(1)


def test_reference_of_zeros() -> None:
    zeros, ones = torch.zeros(4), torch.ones(4)
    wrong, right = error_metrics(zeros, ones), error_metrics(zeros, zeros)
    assert (wrong.sqnr_db, wrong.cosine) == (-math.inf, 0.0)
    assert (right.sqnr_db, right.cosine) == (math.inf, 1.0)
    assert error_metrics(ones, zeros).sqnr_db == 0.0


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
def test_empty_tensors_have_no_metrics(shape: tuple[int, ...]) -> None:
    found = error_metrics(torch.empty(shape), torch.empty(shape))
    assert (found.mse, found.sqnr_db, found.cosine, found.max_abs_err) == (None,) * 4
    assert found.nonfinite == 0


def test_scalar_and_nan_alone() -> None:
    assert error_metrics(torch.tensor(2.0), torch.tensor(1.0)).mse == 1.0
    found = error_metrics(torch.tensor([math.nan]), torch.tensor([math.nan]))
    assert (found.mse, found.nonfinite) == (None, 0)


def test_large_float32_do_not_overflow() -> None:
    r = torch.full((4,), 3e38)
    found = error_metrics(r, -r)
    assert found.mse == pytest.approx(3.6e77, rel=1e-6)
    assert found.cosine == pytest.approx(-1)
    assert found.nonfinite == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_compared_in_float64(dtype: torch.dtype) -> None:
    r, a = torch.randn(50).to(dtype), torch.randn(50).to(dtype)
    mse = ((a.double() - r.double()) ** 2).mean().item()
    assert error_metrics(r, a).mse == pytest.approx(mse, rel=1e-12)


def test_parameters_are_compared_without_gradients() -> None:
    r = torch.ones(3, requires_grad=True)
    assert error_metrics(r, r * 2).mse == 1.0


def test_other_shape_is_refused_though_it_would_broadcast() -> None:
    with pytest.raises(QBenchError, match=r"\(1, 3\) for \(2, 3\)"):
        error_metrics(torch.ones(2, 3), torch.ones(1, 3))
