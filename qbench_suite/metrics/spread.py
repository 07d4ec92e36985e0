"""Range of a tensor: extremes, dynamic range, non-finite counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from qbench_suite.metrics.sums import RangeSums, range_sums


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
    return range_of(range_sums(x))


def range_of(sums: RangeSums) -> RangeMetrics:
    """The range that follows from sums, of one tensor or of many."""
    if not sums.count:
        return RangeMetrics(None, None, None, None, sums.nan_count, sums.inf_count)
    absmax = max(abs(sums.low), abs(sums.high))
    dynamic_range = 20 * (math.log10(absmax) - math.log10(sums.smallest)) if absmax else None
    return RangeMetrics(sums.low, sums.high, absmax, dynamic_range, sums.nan_count, sums.inf_count)
