"""Percentile: a range that leaves the few largest magnitudes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qbench_ranges.extremes import extremes, settled
from qbench_ranges.histogram import Histogram
from qbench_ranges.streaming import StreamingRule
from qbench_suite import ModeError, Quantizer, Range

#: The order statistic of each group, counted from the largest value.
_Statistic = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Percentile(StreamingRule):
    """``max(min x, −P) … min(max x, P)``, P the percentile of |x| in each group.

    P interpolates linearly between the two order statistics next to rank ``percent / 100 · (n − 1)``,
    as ``numpy.percentile`` does. Exact for one batch; over several, each order statistic is the middle
    of its histogram bin, at most half a bin off: below 0.05 % of the absolute maximum up to 4096 groups,
    and at most 1/64 of it for any number. A group without a finite value has the range 0 … 0. Raises
    ``ModeError`` for a percentile that is not above 0 and at most 100.
    """

    #: Share of the magnitudes that lie within the range, in percent.
    percent: float = 99.99

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise ModeError(
                f"A percentile is above 0 and at most 100; got {self.percent:g}. Use for instance "
                "percentile99.9."
            )

    def range_of(self, groups: Tensor, quantizer: Quantizer) -> Range:
        return _clipped(settled(extremes(groups)), self._exact(groups))

    def range_of_histogram(self, histogram: Histogram, quantizer: Quantizer) -> Range:
        return _clipped(histogram.range, self._estimate(histogram))

    def _exact(self, groups: Tensor) -> Tensor:
        """P of each row; sorts no more than the largest values that it needs."""
        finite = groups.isfinite()
        count = finite.sum(dim=1)
        if not groups.numel() or not bool(count.any()):
            return groups.new_zeros(groups.shape[0])
        rank = self._rank_from_top(count)
        magnitude = torch.where(finite, groups.abs(), -1.0)
        top = magnitude.topk(int(rank.max().ceil()) + 1, dim=1).values.to(torch.float64)
        return _between(lambda i: top.gather(1, i[:, None])[:, 0], rank, count)

    def _estimate(self, histogram: Histogram) -> Tensor:
        cumulative = histogram.magnitudes.cumsum(dim=1)
        count = cumulative[:, -1]
        amax, width = histogram.absmax.double(), histogram.width.double()

        def statistic(from_top: Tensor) -> Tensor:
            smaller = (count - from_top).clamp(min=1)
            bin = torch.searchsorted(cumulative, smaller[:, None])[:, 0]
            middle = torch.minimum((bin + 0.5) * width, amax)
            return torch.where(from_top == 0, amax, middle)

        return _between(statistic, self._rank_from_top(count), count)

    def _rank_from_top(self, count: Tensor) -> Tensor:
        """Rank of P among ``count`` magnitudes, from the largest, which has 0: float64."""
        last = (count - 1).clamp(min=0).to(torch.float64)
        return last - last * (self.percent / 100)


def _between(statistic: _Statistic, rank: Tensor, count: Tensor) -> Tensor:
    """``statistic`` interpolated at a rank that is no integer; 0 where there is nothing to rank."""
    upper, lower = statistic(rank.floor().long()), statistic(rank.ceil().long())
    value = upper + (lower - upper) * (rank - rank.floor())
    return torch.where(count > 0, value, 0.0).to(torch.float32)


def _clipped(range: Range, bound: Tensor) -> Range:
    return Range(torch.maximum(range.low, -bound), torch.minimum(range.high, bound))
