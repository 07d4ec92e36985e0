"""Mean square error: the range whose scale quantizes the values with the least error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qbench_ranges.extremes import extremes, settled
from qbench_ranges.histogram import Histogram
from qbench_ranges.rows import RowQuantizer, shrunk
from qbench_ranges.streaming import StreamingRule
from qbench_suite import Quantizer, Range

#: Shares of the whole range that are tried; of equal errors the wider range wins.
FACTORS = tuple(k / 80 for k in range(80, 0, -1))
#: Values quantized at once: what fits the processor's cache is tried eighty times fast.
_BLOCK = 1 << 16
#: A first batch up to this size is searched by its values; of a larger one the histogram is as good.
_MAX_EXACT = 1 << 14


@dataclass(frozen=True, kw_only=True)
class LeastSquares(StreamingRule):
    """``f · (min x … max x)`` with the f that minimises ``Σ (Q_f(x) − x)²``, f = 1/80 … 1.

    ``Q_f`` is the quantizer's own format and scale rule with the scale of the range tried; each group
    has its own f. Over several batches, or one of more than 2^14 values, x is the middle of each
    histogram bin, counted as often as the bin holds values; weights and dynamic scales are always
    searched by their values. Where a rule ties the scales of a tensor together (two-level scales) the
    groups' own choices are kept only if, all together, they beat the whole range. NaN and ±Inf are
    passed over; a group without a finite value has the range 0 … 0; a format without a scale has the
    whole range.
    """

    def fits(self, values: int) -> bool:
        return values <= _MAX_EXACT

    def range_of(self, groups: Tensor, quantizer: Quantizer) -> Range:
        return _search(_Search(quantizer, groups, None, settled(extremes(groups))))

    def range_of_histogram(self, histogram: Histogram, quantizer: Quantizer) -> Range:
        search = _Search(quantizer, histogram.centers, histogram.counts, histogram.range)
        return _search(search)


@dataclass(frozen=True)
class _Search:
    """What is searched: values (groups, elements), how often each counts (None: once), their range."""

    quantizer: Quantizer
    values: Tensor
    counts: Tensor | None
    whole: Range

    def errors(self, factors: list[Tensor]) -> Tensor:
        """Squared error of each group under each factor (a scalar, or one a group), float64."""
        quantize = RowQuantizer(self.quantizer)
        ranges = [shrunk(self.whole, factor) for factor in factors]
        groups = self.values.shape[0]
        total = torch.zeros(len(factors), groups, dtype=torch.float64).to(self.values.device)
        columns = max(_BLOCK // max(groups, 1), 1)
        for start in range(0, self.values.shape[1], columns):
            values = self.values[:, start : start + columns].contiguous()
            finite = values.isfinite()
            values = torch.where(finite, values, 0.0)
            weights = finite if self.counts is None else self.counts[:, start : start + columns]
            # Of few values several factors are tried in one call, which costs more than the arithmetic;
            # unless the rule ties the scales of all rows together.
            tied = self.quantizer.mode.rule.needs_tensor_amax
            tile = 1 if tied else max(_BLOCK * 4 // max(values.numel(), 1), 1)
            for first in range(0, len(ranges), tile):
                tried = ranges[first : first + tile]
                tiled = values.repeat(len(tried), 1)
                both = Range(*(torch.cat(ends) for ends in zip(*tried, strict=True)))
                difference = (quantize(tiled, both) - tiled).double().square()
                errors = (difference.view(len(tried), *values.shape) * weights).sum(dim=2)
                total[first : first + tile] += errors
        return total


@torch.no_grad()
def _search(search: _Search) -> Range:
    if search.quantizer.format.unit_scale:
        return search.whole
    device = search.values.device
    errors = search.errors([torch.tensor(factor, device=device) for factor in FACTORS])
    best = torch.tensor(FACTORS, device=device)[errors.argmin(dim=0)]
    if search.quantizer.mode.rule.needs_tensor_amax:
        chosen = search.errors([best]).sum()
        best = best if bool(chosen < errors[0].sum()) else torch.ones_like(best)
    return shrunk(search.whole, best)
