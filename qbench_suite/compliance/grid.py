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
    #: The largest legal value not above it; None where there is none, or the value is NaN.
    below: float | None = None
    #: The smallest legal value not below it; likewise.
    above: float | None = None

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
    result: FakeQuantized, source: Tensor | None = None, *, examples: int = 3, ulps: int = 0
) -> Compliance:
    """Check that every value is ``fl(q · scale)`` for a q of the format.

    q is recovered by rounding ``value / scale`` to nearest; then q must be in the format and the
    product, rounded to the values' dtype, must be equal, or at most ``ulps`` units in the last place of
    the value away. A scale is finite and above 0, a zero point a value of the format. NaN is legal
    where ``source`` is NaN (anywhere without a source); ±Inf and NaN where the format overflows to
    them. Raises ``FormatError`` for a ``round`` that returns another shape, which broadcasting would
    hide.
    """
    values = result.values
    if not values.numel():
        return Compliance(0, 0)
    scale = result.spread_scale()
    legal, bad = _compare(result, scale, 1.0, ulps)
    # A power of two has a finer grid of its dtype below it than above: q may lie past the midpoint.
    half_ulp = torch.finfo(values.dtype).eps / 2
    for nudge in (1 - half_ulp, 1 + half_ulp):
        if bool(bad.any()):
            bad &= _compare(result, scale, nudge, ulps)[1]
    if bool(bad.any()):
        bad &= ~_explained(result, scale, source)
    count = int(bad.sum())
    if not count:
        return Compliance(values.numel(), 0)
    indices = bad.nonzero()[:examples]
    return Compliance(
        values.numel(), count, tuple(_violation(result, scale, legal, index) for index in indices)
    )


def _violation(result: FakeQuantized, scale: Tensor, legal: Tensor, index: Tensor) -> Violation:
    place = tuple(int(i) for i in index)
    value = float(result.values[place])
    below, above = neighbours(result, place)
    return Violation(place, value, float(scale[place]), float(legal[place]), below, above)


def neighbours(result: FakeQuantized, index: tuple[int, ...]) -> tuple[float | None, float | None]:
    """The largest legal value not above the element, and the smallest not below it.

    None where there is none, as for NaN, and for formats too wide to list their values.
    """
    try:
        q = torch.tensor(result.format.values, dtype=torch.float32)
    except FormatError:
        return None, None
    group = tuple(i // size for i, size in zip(index, result.group_shape, strict=True))
    if result.zero_point is not None:
        q = q - result.zero_point[group].cpu()
    legal = to_dtype(q * result.scale[group].cpu(), result.values.dtype)
    value = result.values[index].cpu()
    below, above = legal[legal <= value], legal[legal >= value]
    return (
        float(below.max()) if below.numel() else None,
        float(above.min()) if above.numel() else None,
    )


def _compare(
    result: FakeQuantized, scale: Tensor, nudge: float, ulps: int
) -> tuple[Tensor, Tensor]:
    """The legal value nearest to each element times ``nudge``, and where that is not the element."""
    format, zero_point = _to_nearest(result.format), result.spread_zero_point()
    v = result.values.to(torch.float32) / scale * nudge
    q = format.round(v if zero_point is None else torch.round(v) + zero_point)
    if q.shape != v.shape:
        raise FormatError(
            f"round returns the shape it is given; {format.name} returned {tuple(q.shape)} for "
            f"{tuple(v.shape)}. Mend its round."
        )
    member = format.contains(q) & (scale > 0) & scale.isfinite()
    if zero_point is not None:
        member &= format.contains(zero_point)
        q = q - zero_point
    legal = to_dtype(q * scale, result.values.dtype)
    return legal, ~(member & _equal(legal, result.values, ulps))


def _equal(legal: Tensor, values: Tensor, ulps: int) -> Tensor:
    """Whether each value is its legal one, to within ``ulps`` units in its last place."""
    if not ulps:
        return legal == values
    info = torch.finfo(values.dtype)
    binade = torch.frexp(values.double()).exponent - 1
    unit = torch.ldexp(torch.full_like(values, info.eps, dtype=torch.float64), binade)
    unit = unit.clamp(min=info.smallest_normal * info.eps)
    return (legal.double() - values.double()).abs() <= ulps * unit


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
