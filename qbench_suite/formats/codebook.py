"""CodebookFormat: any list of values; rounding by table, for formats without arithmetic of their own."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from qbench_suite.errors import FormatError
from qbench_suite.formats.base import Format, Rounding, RoundKernel

#: Up to here a chain of selects, which vectorises, beats a search in the table.
_CHAIN_LIMIT = 16


@dataclass(frozen=True, kw_only=True)
class CodebookFormat(Format):
    """A format given by its finite values; ``round`` is a table look-up, exact for every float32.

    ``CodebookFormat(name="signs", bits=1, values=(-1.0, 1.0))`` is a complete format. Values are
    ascending float32 numbers. A tie goes to the value with the even code. Out of range saturates;
    NaN stays NaN.

    Raises ``FormatError`` for values that do not ascend, are not float32, or exceed 2^bits codes.
    """

    #: Every finite value, ascending.
    values: tuple[float, ...] = field()
    #: The code of each value; 0, 1, 2, … unless given.
    codes: tuple[int, ...] = ()
    #: (code, value) of the codes that mean NaN or ±Inf.
    special_codes: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        values = tuple(float(v) for v in self.values)
        problem = _problem(values, self.codes, self.bits)
        if problem:
            raise FormatError(
                f"A codebook holds 1 … 2^bits ascending float32 values, one code each; "
                f"{self.name!r} {problem}. Correct `values`, `codes` or `bits`."
            )
        object.__setattr__(self, "values", values)

    @functools.cached_property
    def code_table(self) -> Mapping[int, float]:
        codes = self.codes or range(len(self.values))
        return dict(zip(codes, self.values, strict=True)) | dict(self.special_codes)

    def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
        kernel = _round_kernel(self, x.device)
        return kernel.function(x.to(torch.float32), noise, *kernel.constants)

    def round_kernel(self, device: torch.device) -> RoundKernel:
        if type(self).round is not CodebookFormat.round:
            return super().round_kernel(device)
        return _round_kernel(self, device)


def _problem(values: tuple[float, ...], codes: tuple[int, ...], bits: int) -> str:
    if not 0 < len(values) <= 2**bits:
        return f"has {len(values)} values for {bits} bits"
    if not all(math.isfinite(v) and float(np.float32(v)) == v for v in values):
        return "has a value that is not a finite float32 number"
    if any(a >= b for a, b in itertools.pairwise(values)):
        return "has values that do not ascend"
    if not any(values):
        return "has no value but zero"
    if codes and (len(set(codes)) != len(values) or not all(0 <= c < 2**bits for c in codes)):
        return f"has {len(set(codes))} distinct codes for {len(values)} values"
    return ""


def _threshold(low: float, high: float, tie_goes_up: bool) -> float:
    """The largest float32 that rounds to ``low``; computed in exact fractions."""
    middle = (Fraction(low) + Fraction(high)) / 2
    near = np.float32(float(middle))
    if Fraction(float(near)) > middle or (Fraction(float(near)) == middle and tie_goes_up):
        near = np.nextafter(near, np.float32(-np.inf))
    return float(near)


def _thresholds(format: CodebookFormat) -> list[float]:
    codes = format.codes or tuple(range(len(format.values)))
    pairs = itertools.pairwise(zip(format.values, codes, strict=True))
    thresholds = []
    for (low, low_code), (high, high_code) in pairs:
        if format.rounding is Rounding.AWAY or low_code % 2 == high_code % 2:
            up = abs(high) >= abs(low)
        else:
            up = high_code % 2 == 0
        thresholds.append(_threshold(low, high, up))
    return thresholds


def _select(v: Tensor, noise: Tensor | None, table: Tensor, thresholds: Tensor) -> Tensor:
    """A chain of selects over a short table."""
    r = torch.where(v.isnan(), v, table[0])
    for i in range(thresholds.shape[0]):
        r = torch.where(v > thresholds[i], table[i + 1], r)
    return r


def _search(v: Tensor, noise: Tensor | None, table: Tensor, thresholds: Tensor) -> Tensor:
    """A binary search in a long table."""
    return torch.where(v.isnan(), v, table[torch.bucketize(v.contiguous(), thresholds)])


def _truncate(v: Tensor, noise: Tensor | None, table: Tensor, thresholds: Tensor) -> Tensor:
    bounded, inner, outer, _ = _neighbours(v, table)
    return torch.where(v.isnan(), v, torch.where(bounded == outer, outer, inner))


def _stochastic(v: Tensor, noise: Tensor | None, table: Tensor, thresholds: Tensor) -> Tensor:
    if noise is None:
        raise TypeError(
            "stochastic rounding needs noise in [0, 1) of the shape of its input; got None"
        )
    bounded, inner, outer, gap = _neighbours(v, table)
    share = (bounded - inner).abs() / gap
    return torch.where(v.isnan(), v, torch.where(noise < share, outer, inner))


def _neighbours(v: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``v`` in range, its neighbours of smaller and larger magnitude, and their distance."""
    bounded = torch.minimum(torch.maximum(v, table[0]), table[-1])
    above = torch.bucketize(bounded.contiguous(), table, right=True).clamp(1, table.shape[0] - 1)
    low, high = table[above - 1], table[above]
    inner = torch.where(low.abs() <= high.abs(), low, high)
    outer = torch.where(low.abs() <= high.abs(), high, low)
    return bounded, inner, outer, high - low


def _rounder(format: CodebookFormat) -> Callable[..., Tensor]:
    if format.rounding is Rounding.TRUNCATE:
        return _truncate
    if format.rounding is Rounding.STOCHASTIC:
        return _stochastic
    return _select if len(format.values) <= _CHAIN_LIMIT else _search


@functools.cache
def _round_kernel(format: CodebookFormat, device: torch.device) -> RoundKernel:
    constants = (
        torch.tensor(format.values, dtype=torch.float32, device=device),
        torch.tensor(_thresholds(format), dtype=torch.float32, device=device),
    )
    return RoundKernel(_rounder(format), constants)
