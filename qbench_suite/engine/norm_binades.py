"""Scales that are powers of two: where either of two is right, neither is an error."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qbench_suite.engine.norm_problem import PosedProblem

#: A value next to the saturating end of one scale is off by an eighth, where the other still holds it.
_COARSEST = 1 / 8
#: Smallest step of FP8 codes.
_SMALLEST = 2.0**-9


def settled(posed: PosedProblem, outputs: Sequence[Tensor], most: float) -> tuple[Tensor, ...]:
    """``outputs``, in which chunks whose scale is twice or half the exact one are the exact ones.

    Where the largest value of a chunk lies at a power of two, its last place decides between two
    scales, and either is right. So it is where no more than the share ``most`` of chunks (or one) is
    such, and where their codes times scales agree to the step of a code; otherwise ``outputs`` stay.
    """
    unchanged = tuple(outputs)
    if not posed.operation.quantized:
        return unchanged
    codes, scales = unchanged[:2]
    exact_codes, exact = posed.exact[0].to(codes.device), posed.exact[1].to(scales)
    if not (torch.frexp(exact).mantissa == 0.5).all():
        return unchanged
    other = (scales == 2 * exact) | (scales == exact / 2)
    if not 0 < int(other.sum()) <= max(most * other.numel(), 1):
        return unchanged
    length = codes.shape[-1]
    chunk = 1 << math.ceil(math.log2(length / scales.shape[-1]))

    def spread(values: Tensor) -> Tensor:
        return values.repeat_interleave(chunk, -1)[..., :length]

    given, due = codes.float() * spread(scales), exact_codes.float() * spread(exact)
    step = _SMALLEST * spread(torch.maximum(scales, exact))
    bound = torch.maximum(torch.maximum(given.abs(), due.abs()) * _COARSEST, step)
    chosen = spread(other)
    if not ((given - due).abs() <= bound)[chosen].all():
        return unchanged
    bits = torch.where(chosen, exact_codes.view(torch.uint8), codes.view(torch.uint8))
    return bits.view(codes.dtype), torch.where(other, exact, scales), *unchanged[2:]
