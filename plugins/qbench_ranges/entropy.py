"""Entropy: the range that keeps the distribution of quantized magnitudes nearest the original one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qbench_ranges.histogram import Histogram
from qbench_ranges.rows import RowQuantizer
from qbench_ranges.streaming import StreamingRule
from qbench_suite import Quantizer, Range

#: Shares of the absolute maximum that are tried; of equal divergences the wider range wins. The
#: published method begins at 128 of 2048 bins.
FACTORS = tuple(k / 128 for k in range(128, 7, -1))
#: Bins looked at together.
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Entropy(StreamingRule):
    """``max(min x, −T) … min(max x, T)`` with the T that minimises ``KL(P ‖ Q)``, T = amax / 16 … amax.

    P is the histogram of |x| up to T, what lies beyond added to its last bin. Q holds what lies within
    T, each level of the format spread evenly over the bins of P that round to it and are not empty.
    Migacz, 8-bit Inference with TensorRT, GTC 2017, where the levels are 128 equal ones: here they are
    those of the quantizer's format, by its own rounding. Always by the histogram, of one batch too. The
    method compares bins with levels, so that it needs more of the former: where thousands of groups leave
    few bins to each, T = amax. A group without a finite value has the range 0 … 0; a format without a
    scale has the whole range.
    """

    def fits(self, values: int) -> bool:
        return False

    def range_of(self, groups: Tensor, quantizer: Quantizer) -> Range:
        return self.range_of_histogram(Histogram(groups), quantizer)

    @torch.no_grad()
    def range_of_histogram(self, histogram: Histogram, quantizer: Quantizer) -> Range:
        low, high = histogram.range
        if quantizer.format.unit_scale or not low.numel():
            return Range(low, high)
        counts, width, amax = histogram.magnitudes, histogram.width, histogram.absmax
        rows, quantize = max(_BLOCK // counts.shape[1], 1), RowQuantizer(quantizer)
        parts = [slice(first, first + rows) for first in range(0, counts.shape[0], rows)]
        bound = torch.cat([_threshold(counts[p], width[p], amax[p], quantize) for p in parts])
        return Range(torch.maximum(low, -bound), torch.minimum(high, bound))


def _threshold(counts: Tensor, width: Tensor, amax: Tensor, quantize: RowQuantizer) -> Tensor:
    """T of each group: (groups,); ``counts`` (groups, bins) of magnitudes, from 0."""
    bins = torch.arange(counts.shape[1], device=counts.device)
    centers = torch.minimum((bins + 0.5) * width[:, None], amax[:, None])
    best, least = amax, torch.full_like(amax, torch.inf, dtype=torch.float64)
    for factor in FACTORS:
        bound = amax * factor
        quantized = quantize(centers, Range(-bound, bound))
        # The last bin ends at or just above T.
        within = bins < (bound / width).ceil().clamp(min=1)[:, None]
        divergence = kl_divergence(counts, within, quantized)
        better = divergence < least
        best, least = torch.where(better, bound, best), torch.where(better, divergence, least)
    return best


def kl_divergence(counts: Tensor, within: Tensor, quantized: Tensor) -> Tensor:
    """``KL(P ‖ Q)`` of each row in nats, float64; Inf where Q lacks a bin that P has.

    ``counts``, ``within`` (a bool prefix of each row), ``quantized`` (the level of each bin, ascending):
    all (groups, bins).
    """
    inside = torch.where(within, counts, 0).to(torch.float64)
    last = within.sum(dim=1, keepdim=True) - 1
    beyond = counts.sum(dim=1, keepdim=True) - inside.sum(dim=1, keepdim=True)
    p = inside.scatter_add(1, last, beyond)
    level = torch.zeros_like(counts)
    level[:, 1:] = (quantized[:, 1:] != quantized[:, :-1]).cumsum(dim=1)
    held = (p > 0).to(torch.float64)
    mass = torch.zeros_like(inside).scatter_add(1, level, inside).gather(1, level)
    bins = torch.zeros_like(inside).scatter_add(1, level, held).gather(1, level)
    q = torch.where(p > 0, mass / bins.clamp(min=1), 0.0)
    p, q = (part / part.sum(dim=1, keepdim=True).clamp(min=1) for part in (p, q))
    return torch.where(p > 0, p * (p / q).log(), 0.0).sum(dim=1)
