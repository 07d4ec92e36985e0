"""Histogram: the distribution of each group over any number of batches, in bounded memory."""

from __future__ import annotations

import torch
from torch import Tensor

from qbench_ranges.extremes import extremes, settled, widened
from qbench_suite import Range

#: Counts that one histogram may hold, all groups together: 128 MiB.
_MAX_COUNTS = 1 << 24
_MIN_BINS, _MAX_BINS = 128, 4096
#: Magnitudes below 2^−100 share the two bins about zero; smaller bins would overflow their inverse.
_MIN_EXPONENT = -100
#: Elements binned at once.
_BLOCK = 1 << 20


class Histogram:
    """Counts of the finite values of each group in equal bins over −2^e … 2^e, e per group.

    2^e is the smallest power of two that holds all values seen. A value beyond it doubles the range
    and merges the bins in pairs, so that the count of every bin stays exact. There are 4096 bins; where
    there are more than 4096 groups fewer, so that all together stay within 2^24 counts, but at least
    128. A bin is ``2^(e+1) / bins`` wide, less than ``4 / bins`` of the absolute maximum: below 0.1 %.
    """

    def __init__(self, groups: Tensor) -> None:
        """Begin with the first batch: (groups, elements) float32; NaN and ±Inf are passed over."""
        rows = groups.shape[0]
        bins = _MAX_COUNTS // max(rows, 1)
        bins = min(max(1 << max(bins.bit_length() - 1, 0), _MIN_BINS), _MAX_BINS)
        #: Bins on either side of zero.
        self.half = bins // 2
        #: int64, (groups, bins).
        self.counts = torch.zeros((rows, bins), dtype=torch.int64, device=groups.device)
        self._seen = extremes(groups)
        self._exponent = _exponent(self.absmax)
        self._count(groups)

    def add(self, groups: Tensor) -> None:
        """See another batch of as many groups."""
        self._seen = widened(self._seen, extremes(groups))
        wanted = torch.maximum(_exponent(self.absmax), self._exponent)
        self._double(wanted - self._exponent)
        self._exponent = wanted
        self._count(groups)

    @property
    def range(self) -> Range:
        """The least and largest value of each group, exactly; 0 … 0 where there was none."""
        return settled(self._seen)

    @property
    def absmax(self) -> Tensor:
        """The largest magnitude of each group, exactly: (groups,) float32."""
        low, high = self.range
        return torch.maximum(low.abs(), high.abs())

    @property
    def width(self) -> Tensor:
        """Width of a bin: (groups,) float32."""
        return torch.ldexp(torch.ones_like(self._seen.low), self._exponent) / self.half

    @property
    def centers(self) -> Tensor:
        """The middle of each bin: (groups, bins) float32, kept within the range of the group."""
        bins = torch.arange(-self.half, self.half, device=self.counts.device) + 0.5
        low, high = self.range
        centers = bins * self.width[:, None]
        return torch.minimum(torch.maximum(centers, low[:, None]), high[:, None])

    @property
    def magnitudes(self) -> Tensor:
        """Counts of |x| in bins that begin at 0: (groups, bins / 2) int64."""
        return self.counts[:, self.half :] + self.counts[:, : self.half].flip(1)

    def _double(self, times: Tensor) -> None:
        """Merge bins in pairs, as many times a group as ``times`` says."""
        if not bool(times.any()):
            return
        bins = torch.arange(-self.half, self.half, device=times.device)
        shift = times.clamp(max=31).to(torch.int64)
        target = (bins >> shift[:, None]) + self.half
        self.counts = torch.zeros_like(self.counts).scatter_add(1, target, self.counts)

    def _count(self, groups: Tensor) -> None:
        rows, bins = self.counts.shape
        if not groups.numel():
            return
        per_value = torch.ldexp(torch.full_like(self._seen.low, self.half), -self._exponent)
        first = torch.arange(rows, device=groups.device) * bins
        counts = torch.zeros(rows * bins + 1, dtype=torch.int64, device=groups.device)
        for block in torch.split(groups, max(_BLOCK // rows, 1), dim=1):
            finite = block.isfinite()
            index = (torch.where(finite, block, 0.0) * per_value[:, None]).floor().to(torch.int64)
            index = index.clamp(-self.half, self.half - 1) + self.half + first[:, None]
            index = torch.where(finite, index, rows * bins)
            counts += torch.bincount(index.reshape(-1), minlength=rows * bins + 1)
        self.counts = self.counts + counts[:-1].view(rows, bins)


def _exponent(amax: Tensor) -> Tensor:
    """The smallest e with ``amax ≤ 2^e``, int32, and at least −100."""
    mantissa, exponent = torch.frexp(amax)
    exponent = torch.where(mantissa == 0.5, exponent - 1, exponent)
    return torch.where(amax > 0, exponent, _MIN_EXPONENT).clamp(min=_MIN_EXPONENT)
