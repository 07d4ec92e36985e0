"""Sums against NumPy float64: compiled and uncompiled, in parts, on awkward memory and special values."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench_suite.errors import QBenchError
from qbench_suite.metrics import (
    ErrorSums,
    RangeSums,
    error_of,
    error_sums,
    range_of,
    range_sums,
    sums,
)
from qbench_suite.scaling import compiling

LARGE = sums._WORTH_COMPILING * 3 + 5


@pytest.fixture(params=["compiled", "eager"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with compiling.eager() if request.param == "eager" else nullcontext():
        yield request.param


def expected_error(r: np.ndarray, y: np.ndarray) -> dict[str, float]:
    r, y = r.astype(np.float64).ravel(), y.astype(np.float64).ravel()
    both = np.isfinite(r) & np.isfinite(y)
    nonfinite = int((np.isfinite(r) & ~np.isfinite(y)).sum())
    bad = int((~np.isfinite(r)).sum())
    r, y = r[both], y[both]
    return {
        "count": int(both.sum()),
        "signal": math.fsum(r * r),
        "noise": math.fsum((y - r) ** 2),
        "product": math.fsum(r * y),
        "power": math.fsum(y * y),
        "max_abs_err": float(np.abs(y - r).max(initial=0)),
        "nonfinite": nonfinite,
        "reference_nonfinite": bad,
    }


def spoiled(x: Tensor, every: int) -> Tensor:
    x = x.clone().flatten()
    x[::every], x[1::every], x[2::every] = math.nan, math.inf, -math.inf
    return x


def pair(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    r = torch.randn(count, generator=generator) * 3 + 0.5
    return r.to(dtype), (r + 0.01 * torch.randn(count, generator=generator)).to(dtype)


def same(found: ErrorSums, expected: dict[str, float]) -> None:
    assert found.to_json() == pytest.approx(expected, rel=1e-6, abs=0)


@pytest.mark.parametrize("count", [1, 2, 1000, LARGE])
def test_error_sums_are_those_of_numpy(way: str, count: int) -> None:
    r, y = pair(count)
    same(error_sums(r, y), expected_error(r.numpy(), y.numpy()))


def test_sums_of_huge_and_tiny_values_are_neither_lost_nor_infinite(way: str) -> None:
    r, y = (torch.where(torch.arange(LARGE) % 2 == 0, t * 1e30, t * 1e-30) for t in pair(LARGE))
    same(error_sums(r, y), expected_error(r.numpy(), y.numpy()))


def test_small_error_of_a_large_signal_is_not_lost_in_it(way: str) -> None:
    r = torch.full((LARGE,), 1e4)
    y = torch.nextafter(r, torch.tensor(math.inf))
    same(error_sums(r, y), expected_error(r.numpy(), y.numpy()))


def test_only_elements_finite_in_both_count(way: str) -> None:
    r, y = pair(LARGE)
    r, y = spoiled(r, 7), spoiled(y, 11)
    same(error_sums(r, y), expected_error(r.numpy(), y.numpy()))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 12_345, LARGE - 1])
def test_one_value_that_is_not_finite_is_found_wherever_it_is(
    way: str, value: float, place: int
) -> None:
    r, y = pair(LARGE)
    spoiled = y.clone()
    spoiled[place] = value
    for a, b in ((r, spoiled), (spoiled, r), (spoiled, spoiled)):
        same(error_sums(a, b), expected_error(a.numpy(), b.numpy()))
    found = range_sums(spoiled)
    assert (found.count, found.nan_count + found.inf_count) == (LARGE - 1, 1)
    assert math.isfinite(found.low + found.high)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_summed_in_float64(way: str, dtype: torch.dtype) -> None:
    r, y = pair(LARGE, dtype)
    same(error_sums(r, y), expected_error(r.double().numpy(), y.double().numpy()))


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.view(40, -1).t(),
    "channels last": lambda x: x.view(2, 4, -1, 40).contiguous(memory_format=torch.channels_last),
    "every second": lambda x: x[::2],
    "from the middle": lambda x: x[7:],
    "expanded": lambda x: x[:40].expand(3000, 40),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_changes_nothing(way: str, layout: str) -> None:
    r, y = pair(2 * 4 * 40 * 400)
    laid = LAYOUTS[layout]
    for a, b in (
        (laid(r), laid(y)),
        (laid(r), laid(y).contiguous()),
        (laid(r).contiguous(), laid(y)),
    ):
        same(error_sums(a, b), expected_error(a.numpy(), b.numpy()))
    low, high = float(laid(r).min()), float(laid(r).max())
    assert (range_sums(laid(r)).low, range_sums(laid(r)).high) == (low, high)


def test_parts_add_up_to_the_whole(way: str) -> None:
    r, y = pair(LARGE)
    y[5] = math.nan
    parts = [
        error_sums(a, b)
        for a, b in zip(torch.split(r, 30_001), torch.split(y, 30_001), strict=True)
    ]
    same(sum(parts, ErrorSums()), expected_error(r.numpy(), y.numpy()))
    whole = range_sums(y)
    assert sum((range_sums(part) for part in torch.split(y, 30_001)), RangeSums()) == whole


def test_many_shapes_and_dtypes_stay_compiled() -> None:
    before = compiling.failures()
    for count in range(LARGE, LARGE + 12):
        for dtype in (torch.float32, torch.float16):
            r, y = pair(count, dtype)
            found = error_sums(r, y)
            assert found.count == count
    assert compiling.failures() == before
    if compiling.compiler():
        kernels = [k for k in sums._compiled.values() if type(k).__name__ == "_Guarded"]
        assert kernels


def test_without_a_compiler_sums_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "_compiled", {})
    monkeypatch.setattr(compiling, "_failures", [])
    monkeypatch.setattr(compiling, "compiler", lambda: "")
    r, y = pair(LARGE)
    with pytest.warns(RuntimeWarning, match="no C"):
        found = error_sums(r, y)
    same(found, expected_error(r.numpy(), y.numpy()))


def test_range_sums_are_those_of_numpy(way: str) -> None:
    x = spoiled(pair(LARGE)[0], 9)
    x[3::9] = 0.0
    found, values = range_sums(x), x.numpy()
    finite = values[np.isfinite(values)]
    magnitudes = np.abs(finite[finite != 0])
    assert found == RangeSums(
        len(finite),
        float(finite.min()),
        float(finite.max()),
        float(magnitudes.min()),
        int(np.isnan(values).sum()),
        int(np.isinf(values).sum()),
    )


def test_no_elements_and_no_finite_ones_give_nothing(way: str) -> None:
    assert error_sums(torch.empty(0, 3), torch.empty(0, 3)) == ErrorSums()
    assert range_sums(torch.empty(0, 3)) == RangeSums()
    nothing = torch.full((LARGE,), math.nan)
    assert error_of(error_sums(nothing, nothing)).mse is None
    assert error_sums(nothing, nothing).reference_nonfinite == LARGE
    assert range_of(range_sums(nothing)).absmax is None
    assert range_sums(nothing).nan_count == LARGE


def test_state_survives_json() -> None:
    r, y = pair(100)
    for found in (error_sums(r, y), ErrorSums()):
        assert ErrorSums(**json.loads(json.dumps(found.to_json()))) == found
    for spread in (range_sums(r), RangeSums()):
        assert RangeSums(**json.loads(json.dumps(spread.to_json()))) == spread


def test_other_shape_is_refused_though_it_would_broadcast() -> None:
    with pytest.raises(QBenchError, match=r"\(1, 3\) for \(2, 3\)"):
        error_sums(torch.ones(2, 3), torch.ones(1, 3))
