"""Parts that the kernels share: a row's mean, 1 / sqrt of its second moment, the affine end."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def scaled_root(
    squares: tl.tensor, slip: tl.tensor, shrink: tl.tensor, width: tl.tensor, eps: tl.tensor
) -> Any:
    """``1 / sqrt(moment + eps)``, of sums of squares of values · shrink, the values ``slip`` too large."""
    slip *= shrink
    moment = (squares / width - slip * slip) + eps * shrink * shrink
    return tl.div_rn(shrink, tl.sqrt_rn(moment))


@triton.jit  # type: ignore[untyped-decorator]
def mean_and_rest(pivot: tl.tensor, offset: tl.tensor) -> Any:
    """``pivot + offset`` as the nearest float32 and what that lacks: (x − mean) − rest loses nothing.

    Knuth's exact sum. x − mean is exact where the mean is large, and rounds less than x − pivot where
    it is not.
    """
    mean = pivot + offset
    added = mean - pivot
    return mean, (pivot - (mean - added)) + (offset - added)


@triton.jit  # type: ignore[untyped-decorator]
def affine(  # noqa: PLR0917 - a kernel has no keywords
    values: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    weight_offset: tl.tensor,
    column: tl.tensor,
    there: tl.tensor,
    weighted: tl.constexpr,
    biased: tl.constexpr,
) -> Any:
    """``values · (weight + offset) + bias`` of (rows, columns), where there is either."""
    if weighted:
        scale = tl.load(weight + column, mask=there, other=0.0).to(tl.float32) + weight_offset
        values = values * scale[None, :]
    if biased:
        values = values + tl.load(bias + column, mask=there, other=0.0).to(tl.float32)[None, :]
    return values
