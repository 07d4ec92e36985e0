"""Error of a tensor against its reference: mse, sqnr_db, cosine, max_abs_err."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qbench_suite.errors import QBenchError


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
    if reference.shape != actual.shape:
        raise QBenchError(
            f"A quantized result has the shape of its reference; got {tuple(actual.shape)} for "
            f"{tuple(reference.shape)}. Return the shape that the float layer returns."
        )
    r, a = reference.detach().double().flatten(), actual.detach().double().flatten()
    # One sum tells the usual case, all finite, in a single pass.
    if not math.isfinite(float(torch.dot(r, a))) if len(r) else False:
        both = r.isfinite() & a.isfinite()
        nonfinite = int((r.isfinite() & ~a.isfinite()).sum())
        r, a = r[both], a[both]
    else:
        nonfinite = 0
    if not len(r):
        return ErrorMetrics(None, None, None, None, nonfinite)
    error = a - r
    signal, noise, power = (float(torch.dot(t, t)) for t in (r, error, a))
    return ErrorMetrics(
        mse=noise / len(r),
        sqnr_db=_decibel(signal, noise),
        cosine=_cosine(float(torch.dot(r, a)), signal, power),
        max_abs_err=float(error.abs().max()),
        nonfinite=nonfinite,
    )


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def _cosine(product: float, signal: float, power: float) -> float:
    if signal == 0 or power == 0:
        return float(signal == power)
    return max(-1.0, min(1.0, product / math.sqrt(signal) / math.sqrt(power)))
