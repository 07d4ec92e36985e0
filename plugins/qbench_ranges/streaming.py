"""Streaming: observers that are exact while little was seen, and use a histogram from then on."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from qbench_ranges.histogram import Histogram
from qbench_suite import ModeError, Observer, Quantizer, Range, RangeRule


@dataclass(frozen=True, kw_only=True)
class StreamingRule(RangeRule):
    """A rule that follows exactly from one batch, and from a histogram of several."""

    @abstractmethod
    def range_of(self, groups: Tensor, quantizer: Quantizer) -> Range:
        """The range of one batch, by its values."""

    @abstractmethod
    def range_of_histogram(self, histogram: Histogram, quantizer: Quantizer) -> Range:
        """The range of several batches, by their histogram."""

    def fits(self, values: int) -> bool:
        """Whether ``range_of`` is worth its time for a first batch of that many values."""
        return True

    def observer(self, quantizer: Quantizer) -> Observer:
        return _Streaming(self, quantizer)


class _Streaming(Observer):
    def __init__(self, rule: StreamingRule, quantizer: Quantizer) -> None:
        self._rule, self._quantizer = rule, quantizer
        self._histogram: Histogram | None = None
        #: The range of the first batch, while it is the only one.
        self._first: Range | None = None

    def observe(self, groups: Tensor) -> None:
        if self._histogram is not None:
            self._first = None
            self._histogram.add(groups)
            return
        self._histogram = Histogram(groups)
        if self._rule.fits(groups.numel()):
            self._first = self._rule.range_of(groups, self._quantizer)

    def range(self) -> Range:
        if self._histogram is None:
            raise ModeError(
                "A range follows from values; this observer has seen none. Call observe before range."
            )
        if self._first is not None:
            return self._first
        return self._rule.range_of_histogram(self._histogram, self._quantizer)
