"""Oracles for rounding: exact fractions, one number at a time, and inputs where roundings err."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench_suite import Format, Rounding


@functools.cache
def points(format: Format) -> tuple[list[Fraction], list[int]]:
    """Finite values ascending as fractions, and the code of each; for zero the code of +0."""
    codes: dict[Fraction, int] = {}
    for code, value in sorted(format.code_table.items()):
        if math.isfinite(value):
            codes.setdefault(Fraction(value), code)
    values = sorted(codes)
    return values, [codes[v] for v in values]


def exact_round(format: Format, x: float, rounding: Rounding) -> float:
    """``x`` rounded in exact arithmetic, saturating; a zero comes without its sign."""
    values, codes = points(format)
    exact = min(max(Fraction(x), values[0]), values[-1])
    i = bisect.bisect_left(values, exact)
    if values[i] == exact:
        return float(exact)
    low, high = values[i - 1], values[i]
    outer = high if abs(high) >= abs(low) else low
    inner = low if outer is high else high
    if rounding is Rounding.TRUNCATE:
        return float(inner)
    if exact - low != high - exact:
        return float(low if exact - low < high - exact else high)
    if rounding is Rounding.AWAY or codes[i - 1] % 2 == codes[i] % 2:
        return float(outer)
    return float(low if codes[i - 1] % 2 == 0 else high)


def ulps_around(x: np.ndarray, steps: tuple[int, ...] = (0, 1, 4)) -> np.ndarray:
    """Each float32 of ``x`` and its neighbours at these distances in ulps, both ways."""
    x = np.asarray(x, dtype=np.float32)
    up, down, found = x.copy(), x.copy(), []
    for step in range(max(steps) + 1):
        if step in steps:
            found += [up.copy(), down.copy()]
        up, down = np.nextafter(up, np.float32(np.inf)), np.nextafter(down, np.float32(-np.inf))
    return np.concatenate(found)


def hard_inputs(format: Format) -> Tensor:
    """Every value and midpoint, each ±1 and ±4 ulps, zeros, subnormals and overflows; finite."""
    values = np.array(format.values, dtype=np.float64)
    middles = (values[1:] + values[:-1]) / 2  # exact in float64 for formats of up to 8 bits
    top = min(format.max, 1.6e38)
    edges = [1e-45, 1e-40, 2.0**-126, top * 1.04, top * 2, 1e9, 3.4028234663852886e38]
    probes = ulps_around(np.concatenate([values, middles]))
    signed = np.array([*edges, *(-e for e in edges), 0.0, -0.0], dtype=np.float32)
    probes = np.concatenate([probes, signed])
    return torch.from_numpy(probes[np.isfinite(probes)])


def dense_inputs(count: int) -> Tensor:
    """2 × ``count`` finite float32: random bit patterns, and gaussians of random magnitude."""
    generator = np.random.default_rng(7)
    patterns = generator.integers(0, 2**32, count, dtype=np.uint32).view(np.float32)
    magnitudes = np.exp2(generator.integers(-12, 18, count)).astype(np.float32)
    gaussians = generator.standard_normal(count, dtype=np.float32) * magnitudes
    x = np.concatenate([patterns, gaussians])
    return torch.from_numpy(x[np.isfinite(x)])


def bits(x: Tensor) -> Tensor:
    """The bits of float32 numbers, all NaNs being one."""
    x = x.to(torch.float32)
    return torch.where(x.isnan(), torch.nan, x).contiguous().view(torch.int32)


@pytest.fixture
def exact() -> Callable[[Format, float, Rounding], float]:
    """Scalar rounding in exact fractions: ``exact(format, x, rounding)``."""
    return exact_round


@pytest.fixture
def hard() -> Callable[[Format], Tensor]:
    """The inputs of a format where roundings err."""
    return hard_inputs


@pytest.fixture(scope="session")
def dense() -> Tensor:
    """More than 500,000 finite float32."""
    return dense_inputs(300_000)


@pytest.fixture
def same_bits() -> Callable[[Tensor, Tensor], bool]:
    """Whether two tensors are equal bit for bit, signs of zeros included, all NaNs being one."""

    def same(a: Tensor, b: Tensor) -> bool:
        return a.shape == b.shape and torch.equal(bits(a), bits(b))

    return same
