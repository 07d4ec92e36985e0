"""The grid rule: exact membership in {q · scale}, without tolerance."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qbench_suite.errors import FormatError
from qbench_suite.formats import Format, Overflow, Rounding
from qbench_suite.scaling import FakeQuantized
from qbench_suite.scaling.kernel import to_dtype


@dataclass(frozen=True)
class Violation:
    """One value off the grid."""

    #: Index of the element.
    index: tuple[int, ...]
    value: float
    scale: float
    #: The nearest value that would be legal.
    nearest: float

    def __str__(self) -> str:
        where = ", ".join(map(str, self.index))
        return (
            f"[{where}] = {self.value!r} with scale {self.scale!r}, nearest legal {self.nearest!r}"
        )


@dataclass(frozen=True)
class Compliance:
    """The verdict on one tensor."""

    #: Elements looked at.
    checked: int
    #: Elements off the grid, non-finite ones included that the source does not explain.
    violations: int
    #: The first few of them.
    examples: tuple[Violation, ...] = ()

    @property
    def compliant(self) -> bool:
        """Whether no element is off the grid."""
        return not self.violations


def check_grid(
    result: FakeQuantized, source: Tensor | None = None, *, examples: int = 3
) -> Compliance:
    """Check that every value is ``fl(q · scale)`` for a q of the format.

    q is recovered by rounding ``value / scale`` to nearest; then q must be in the format and the
    product, rounded to the values' dtype, must be equal. NaN is legal where ``source`` is NaN (anywhere
    without a source); ±Inf and NaN where the format overflows to them. Raises ``FormatError`` for a
    ``round`` that returns another shape, which broadcasting would hide.
    """
    values = result.values
    if not values.numel():
        return Compliance(0, 0)
    scale = result.spread_scale()
    legal, bad = _compare(result, scale, 1.0)
    # A power of two has a finer grid of its dtype below it than above: q may lie past the midpoint.
    half_ulp = torch.finfo(values.dtype).eps / 2
    for nudge in (1 - half_ulp, 1 + half_ulp):
        if bool(bad.any()):
            bad &= _compare(result, scale, nudge)[1]
    if bool(bad.any()):
        bad &= ~_explained(result, scale, source)
    count = int(bad.sum())
    if not count:
        return Compliance(values.numel(), 0)
    return Compliance(
        values.numel(),
        count,
        tuple(
            Violation(
                tuple(int(i) for i in index),
                float(values[tuple(index)]),
                float(scale[tuple(index)]),
                float(legal[tuple(index)]),
            )
            for index in bad.nonzero()[:examples]
        ),
    )


def _compare(result: FakeQuantized, scale: Tensor, nudge: float) -> tuple[Tensor, Tensor]:
    """The legal value nearest to each element times ``nudge``, and where that is not the element."""
    format, zero_point = _to_nearest(result.format), result.spread_zero_point()
    v = result.values.to(torch.float32) / scale * nudge
    q = format.round(v if zero_point is None else torch.round(v) + zero_point)
    if q.shape != v.shape:
        raise FormatError(
            f"round returns the shape it is given; {format.name} returned {tuple(q.shape)} for "
            f"{tuple(v.shape)}. Mend its round."
        )
    member = format.contains(q)
    if zero_point is not None:
        q = q - zero_point
    legal = to_dtype(q * scale, result.values.dtype)
    return legal, ~(member & (legal == result.values))


def _to_nearest(format: Format) -> Format:
    """The format with its values and rounding to nearest: truncation would undo a rounding error."""
    if format.rounding in (Rounding.TRUNCATE, Rounding.STOCHASTIC):
        return replace(format, rounding=Rounding.NEAREST)
    return format


def _explained(result: FakeQuantized, scale: Tensor, source: Tensor | None) -> Tensor:
    """Non-finite values that are not the format's fault."""
    values, format = result.values, result.format
    nan = values.isnan()
    if source is not None:
        nan &= source.isnan()
    infinity = torch.full((1,), math.inf, device=values.device)
    if format.overflow is not Overflow.SPEC or bool(_to_nearest(format).round(infinity).isfinite()):
        return nan
    overflowed = ~values.isfinite()
    if source is not None:
        overflowed &= (source.to(torch.float32) / scale).abs() > format.max
    return nan | overflowed
