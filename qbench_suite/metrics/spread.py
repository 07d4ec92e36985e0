"""Range of a tensor: extremes, dynamic range, non-finite counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RangeMetrics:
    """Extremes of the finite elements; all None where there is none.

    ``dynamic_range_db = 20 log10(absmax / smallest magnitude above 0)``, None for all zeros.
    """

    min: float | None
    max: float | None
    absmax: float | None
    dynamic_range_db: float | None
    #: NaN elements.
    nan_count: int
    #: ±Inf elements.
    inf_count: int


def range_metrics(x: Tensor) -> RangeMetrics:
    """Range of ``x``, any shape and float dtype."""
    x = x.detach().flatten()
    x = x if x.dtype == torch.float64 else x.float()
    nan_count, inf_count = int(x.isnan().sum()), int(x.isinf().sum())
    finite = x[x.isfinite()] if nan_count or inf_count else x
    if not len(finite):
        return RangeMetrics(None, None, None, None, nan_count, inf_count)
    low, high = (float(v) for v in torch.aminmax(finite))
    magnitudes = finite.abs()
    smallest = float(torch.where(magnitudes > 0, magnitudes, math.inf).min())
    absmax = max(abs(low), abs(high))
    dynamic_range = 20 * (math.log10(absmax) - math.log10(smallest)) if absmax else None
    return RangeMetrics(low, high, absmax, dynamic_range, nan_count, inf_count)
