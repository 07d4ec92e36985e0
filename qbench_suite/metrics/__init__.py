"""Measures of a tensor, of the difference between two, and of what a classifier says."""

from qbench_suite.metrics.accuracy import (
    AccuracySums,
    Interval,
    LogitDrift,
    paired_difference,
    wilson,
)
from qbench_suite.metrics.error import ErrorMetrics, error_metrics, error_of
from qbench_suite.metrics.spread import RangeMetrics, range_metrics, range_of
from qbench_suite.metrics.sums import ErrorSums, RangeSums, error_sums, range_sums

__all__ = [
    "AccuracySums",
    "ErrorMetrics",
    "ErrorSums",
    "Interval",
    "LogitDrift",
    "RangeMetrics",
    "RangeSums",
    "error_metrics",
    "error_of",
    "error_sums",
    "paired_difference",
    "range_metrics",
    "range_of",
    "range_sums",
    "wilson",
]
