"""Ranges by the least and the largest value: running, and as a moving average over batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qbench_suite import ModeError, Observer, Quantizer, Range, RangeRule


def extremes(groups: Tensor) -> Range:
    """The least and largest finite value of each row of (groups, elements).

    +Inf and −Inf, in this order, where a row has no finite value.
    """
    if not groups.shape[1]:
        groups = groups.new_full((groups.shape[0], 1), torch.nan)
    finite = groups.isfinite()
    low = torch.where(finite, groups, torch.inf).amin(dim=1)
    return Range(low, torch.where(finite, groups, -torch.inf).amax(dim=1))


def settled(range: Range) -> Range:
    """``range`` with 0 … 0 where no finite value was seen."""
    seen = range.low <= range.high
    return Range(torch.where(seen, range.low, 0.0), torch.where(seen, range.high, 0.0))


def widened(seen: Range | None, batch: Range) -> Range:
    """The range of all that was seen."""
    if seen is None:
        return batch
    return Range(torch.minimum(seen.low, batch.low), torch.maximum(seen.high, batch.high))


@dataclass(frozen=True, kw_only=True)
class AbsoluteMaximum(RangeRule):
    """The whole range: ``min x … max x`` over all batches."""

    def observer(self, quantizer: Quantizer) -> Observer:
        return _Running()

    def range_of(self, groups: Tensor, quantizer: Quantizer) -> Range:
        return settled(extremes(groups))


class _Running(Observer):
    """The range of everything so far."""

    def __init__(self) -> None:
        self._seen: Range | None = None

    def observe(self, groups: Tensor) -> None:
        self._seen = widened(self._seen, extremes(groups))

    def range(self) -> Range:
        return settled(_begun(self._seen))


@dataclass(frozen=True, kw_only=True)
class MovingAverage(RangeRule):
    """``r ← m r + (1 − m) r_batch`` of both ends of the range, beginning with the first batch's.

    The momentum m is 0.9. A batch without a finite value in a group leaves its range as it is.
    """

    static_only: bool = True
    #: m, the weight of what came before.
    momentum: float = 0.9

    def observer(self, quantizer: Quantizer) -> Observer:
        return _Averaging(self.momentum)


class _Averaging(Observer):
    def __init__(self, momentum: float) -> None:
        self._momentum = momentum
        self._seen: Range | None = None

    def observe(self, groups: Tensor) -> None:
        batch = extremes(groups)
        if self._seen is None:
            self._seen = batch
            return
        low, high = (self._average(*pair) for pair in zip(self._seen, batch, strict=True))
        self._seen = Range(low, high)

    def _average(self, seen: Tensor, batch: Tensor) -> Tensor:
        average = self._momentum * seen + (1 - self._momentum) * batch
        average = torch.where(seen.isfinite(), average, batch)
        return torch.where(batch.isfinite(), average, seen)

    def range(self) -> Range:
        return settled(_begun(self._seen))


def _begun(seen: Range | None) -> Range:
    if seen is None:
        raise ModeError(
            "A range follows from values; this observer has seen none. Call observe before range."
        )
    return seen
