"""Error of a tensor against its reference: mse, sqnr_db, cosine, max_abs_err."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from qbench_suite.metrics.sums import ErrorSums, error_sums


@dataclass(frozen=True)
class ErrorMetrics:
    """How far ``actual`` is from ``reference``, over the elements where both are finite.

    With e = actual − reference and sums in float64: ``mse = mean(e²)``; ``cosine = Σ a·r / (‖a‖ ‖r‖)``,
    1 if both are all zero, 0 if one is; ``sqnr_db = 10 log10(Σ r² / Σ e²)``, +inf for no error, −inf
    for a reference of zeros; ``max_abs_err = max |e|``. All None where no element is finite.
    """

    mse: float | None
    sqnr_db: float | None
    cosine: float | None
    max_abs_err: float | None
    #: Elements of ``actual`` that are NaN or ±Inf where the reference is finite.
    nonfinite: int


def error_metrics(reference: Tensor, actual: Tensor) -> ErrorMetrics:
    """Compare two tensors of one shape; raises ``QBenchError`` for different shapes."""
    return error_of(error_sums(reference, actual))


def error_of(sums: ErrorSums) -> ErrorMetrics:
    """The metrics that follow from sums, of one tensor or of many."""
    if not sums.count:
        return ErrorMetrics(None, None, None, None, sums.nonfinite)
    return ErrorMetrics(
        mse=sums.noise / sums.count,
        sqnr_db=_decibel(sums.signal, sums.noise),
        cosine=_cosine(sums.product, sums.signal, sums.power),
        max_abs_err=sums.max_abs_err,
        nonfinite=sums.nonfinite,
    )


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def _cosine(product: float, signal: float, power: float) -> float:
    if signal == 0 or power == 0:
        return float(signal == power)
    return max(-1.0, min(1.0, product / math.sqrt(signal) / math.sqrt(power)))
