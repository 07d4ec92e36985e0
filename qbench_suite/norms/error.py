"""Errors of a kernel's outputs against float64, in units in the last place of their dtype."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Elements that are looked at together: few enough that they stay in a cache.
_PIECE = 1 << 18
#: Sign and mantissa of a float64 cleared: what is left of a positive one is its power of two.
_EXPONENT = 0x7FF << 52


@dataclass(frozen=True)
class UlpErrors:
    """Errors of one output; 0 of an empty one."""

    #: Largest error.
    max_ulp: float
    #: Error that 999 of 1,000 elements stay within.
    p999_ulp: float
    #: Elements that are NaN or ±Inf where the reference is another, or is finite, and vice versa.
    nonfinite: int
    #: Elements of an output of integers or bool that are not the reference's; None of floats.
    differing: int | None = None


def ulp_errors(output: Tensor, reference: Tensor, dtype: torch.dtype | None = None) -> UlpErrors:
    """Errors of ``output`` against ``reference`` (float64, same shape) in ulps of ``dtype``.

    ``|y − r| / ulp(max(|r|, rms(r)))``, ulp that of the dtype of ``output`` where no other is given;
    rms over the finite elements of ``reference``. Below the rms an error is counted as one at the rms:
    near a zero that a subtraction makes, the digits of the input end, and no kernel can have more. A
    reference beyond the largest finite value of the dtype counts as ±Inf. NaN equals NaN, ±Inf itself.

    An output of integers or bool has no ulps: it is compared with a reference of any dtype exactly, the
    errors being 0, or ∞ of elements that differ.
    """
    if not (output.is_floating_point() or output.is_complex()):
        return _exact_errors(output, reference)
    info = torch.finfo(dtype or output.dtype)
    strides: Sequence[int] = output.stride()
    axes = sorted(
        range(output.dim()), key=strides.__getitem__, reverse=True
    )  # as they lie in memory
    y, r = (tensor.permute(axes).reshape(-1) for tensor in (output, reference))
    # The largest value and half an ulp: what rounds to ±Inf.
    top = info.max + math.ldexp(info.eps, math.frexp(info.max)[1] - 2)
    least = max(_rms(r, top), info.smallest_normal)
    pieces = zip(torch.split(y, _PIECE), torch.split(r, _PIECE), strict=True)
    found = [_piece(some, exact, top, least) for some, exact in pieces]
    nonfinite = sum(count for _, count in found)
    errors = torch.cat([errors for errors, _ in found]).div_(info.eps)
    if not errors.numel():
        return UlpErrors(0.0, 0.0, nonfinite)
    largest = errors.topk(errors.numel() // 1000 + 1, sorted=False).values
    return UlpErrors(float(largest.max()), float(largest.min()), nonfinite)


def _exact_errors(output: Tensor, reference: Tensor) -> UlpErrors:
    """Errors of integers: 0, or ∞ where more than none, or more than 1 in 1,000, differ."""
    wide = torch.float64 if reference.is_floating_point() else torch.int64
    differing = int((output.to(wide) != reference.to(wide)).sum())
    largest, most = (math.inf if differing > few else 0.0 for few in (0, output.numel() // 1000))
    return UlpErrors(largest, most, 0, differing)


def _rms(r: Tensor, top: float) -> float:
    """Root of the mean square of the finite elements; 0 without any."""
    norm = float(torch.linalg.vector_norm(r)) if r.numel() else 0.0
    if not norm < top:  # NaN too
        r = r[r.isfinite() & (r.abs() < top)]
        norm = float(torch.linalg.vector_norm(r)) if r.numel() else 0.0
    return norm / math.sqrt(max(r.numel(), 1))


def _piece(y: Tensor, r: Tensor, top: float, least: float) -> tuple[Tensor, int]:
    """Errors over powers of two, of finite elements; how many of the others are not the same."""
    r = torch.where(r.abs() >= top, r.sign() * torch.inf, r)
    y = y.double()
    error = y - r
    finite = error.isfinite()
    wrong = 0
    if not finite.all():
        same = (y == r) | (y.isnan() & r.isnan())
        wrong = int((~finite & ~same).sum())
        error, r = error[finite], r[finite]
    binade = r.abs_().clamp_(min=least).view(torch.int64).bitwise_and_(_EXPONENT)
    return error.abs_().div_(binade.view(torch.float64)), wrong
