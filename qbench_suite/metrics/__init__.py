"""Measures of a tensor and of the difference between two."""

from qbench_suite.metrics.error import ErrorMetrics, error_metrics
from qbench_suite.metrics.spread import RangeMetrics, range_metrics

__all__ = ["ErrorMetrics", "RangeMetrics", "error_metrics", "range_metrics"]
