"""Activation: any elementwise function as a table over 256 codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qbench_fqvit.scheme import Scheme
from qbench_suite import Range

#: Points at which an activation is looked at to find where it is flat.
_POINTS = 4096


@dataclass(frozen=True)
class Grid:
    """The values ``(code − zero_point) · scale`` of int8 codes."""

    scale: float
    zero_point: int = 0

    def codes(self, values: Tensor) -> Tensor:
        """The nearest code of each value, as float; beyond the ends it saturates."""
        return (torch.round(values / self.scale) + self.zero_point).clamp(-128, 127)

    def values(self, codes: Tensor) -> Tensor:
        """The value of each code."""
        return (codes - self.zero_point) * self.scale


@dataclass(frozen=True)
class Table:
    """An activation between two grids: ``codes`` int8 (256,), from input code −128 up."""

    input: Grid
    output: Grid
    codes: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        """What the integers make of float ``values``: to the input grid, the table, and back."""
        codes = self.codes[(self.input.codes(values) + 128).long()]
        return self.output.values(codes.float())


def activation_table(
    act: Callable[[Tensor], Tensor], read: Range, written: Range, scheme: Scheme
) -> Table:
    """The table of ``act`` over the ranges of its input and its output.

    With folding both grids have zero points, and the input grid leaves out the ends where the code
    of the output no longer changes, as GELU's below about −3.
    """
    output = _grid(float(written.low), float(written.high), scheme)
    low, high = float(read.low), float(read.high)
    if scheme.folding:
        low, high = _changing(act, output, low, high)
    input = _grid(low, high, scheme)
    values = input.values(torch.arange(-128, 128, dtype=torch.float32))
    return Table(input, output, output.codes(act(values)).to(torch.int8))


def _grid(low: float, high: float, scheme: Scheme) -> Grid:
    """The grid of low … high, with a zero point where the scheme folds."""
    width = (high - low) / 255 if scheme.folding else max(-low, high) / 127
    scale = float(scheme.rounded(torch.tensor(width or 1.0)))
    return Grid(scale, -128 - round(low / scale) if scheme.folding else 0)


def _changing(
    act: Callable[[Tensor], Tensor], output: Grid, low: float, high: float
) -> tuple[float, float]:
    """The part of low … high outside which ``act`` has the codes of its two ends."""
    points = torch.linspace(low, high, _POINTS)
    codes = output.codes(act(points))
    rises, falls = (codes != codes[0]).nonzero(), (codes != codes[-1]).nonzero()
    if not len(rises):
        return low, high
    first, last = float(points[rises[0]]), float(points[falls[-1]])
    # What saturates has to have the code of the end, so its value lies a step of the grid further out;
    # 0 stays within, as a zero point needs it.
    margin = (last - first) / 100
    return max(low, min(first - margin, 0.0)), min(high, max(last + margin, 0.0))
