"""The grid rule: exact membership in {q · scale}, without tolerance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qbench_suite.formats import Format, Overflow
from qbench_suite.scaling import FakeQuantized


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
    without a source); ±Inf where the format overflows to it.
    """
    values, format = result.values, result.format
    if not values.numel():
        return Compliance(0, 0)
    scale = result.spread_scale()
    zero_point = result.spread_zero_point()
    nearest, member = _nearest(values.to(torch.float32) / scale, zero_point, format)
    legal = (nearest * scale).to(values.dtype)
    bad = ~(member & (legal == values))
    if bool(bad.any()):
        bad &= ~_explained(values, source, format)
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


def _nearest(v: Tensor, zero_point: Tensor | None, format: Format) -> tuple[Tensor, Tensor]:
    """The q nearest to each element (shifted by the zero point), and whether it is in the format."""
    shifted = v if zero_point is None else torch.round(v) + zero_point
    noise = torch.full_like(v, 0.5) if format.noisy else None
    q = format.round(shifted, noise=noise) if noise is not None else format.round(shifted)
    member = format.contains(q)
    return (q if zero_point is None else q - zero_point), member


def _explained(values: Tensor, source: Tensor | None, format: Format) -> Tensor:
    """Non-finite values that are not the format's fault."""
    nan = values.isnan()
    if source is not None:
        nan &= source.isnan()
    if format.overflow is not Overflow.SPEC:
        return nan
    overflowed = torch.ones_like(nan) if source is None else source.abs() > 0
    return nan | (~values.isfinite() & overflowed)
