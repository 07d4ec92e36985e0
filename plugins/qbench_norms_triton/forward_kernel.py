"""Forward kernels: rows held in registers, and rows longer than that in steps."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from qbench_norms_triton.statistics_kernel import affine, mean_and_rest, scaled_root

#: What values are scaled by where the sum of their squares is beyond float32: 2⁻⁸⁰.
_SHRINK = tl.constexpr(2.0**-80)


@triton.jit  # type: ignore[untyped-decorator]
def _values(  # noqa: PLR0917 - a kernel has no keywords
    x: tl.tensor,
    residual: tl.tensor,
    place: tl.tensor,
    other: tl.tensor,
    there: tl.tensor,
    summed: tl.constexpr,
) -> Any:
    """Elements at ``place``, with the residual's at ``other`` added and rounded, still in x's dtype."""
    values = tl.load(x + place, mask=there, other=0.0)
    if summed:
        more = tl.load(residual + other, mask=there, other=0.0).to(tl.float32)
        values = (values.to(tl.float32) + more).to(x.dtype.element_ty)
    return values


@triton.jit  # type: ignore[untyped-decorator]
def _root_of_block(
    deviation: tl.tensor, slip: tl.tensor, width: tl.tensor, eps: tl.tensor, narrow: tl.constexpr
) -> Any:
    """1 / sqrt(mean of (deviation − slip)² + eps) of each row of (rows, columns)."""
    squares = tl.sum(deviation * deviation, axis=1)
    shrink = tl.full(squares.shape, 1.0, tl.float32)
    if not narrow:
        huge = squares == float("inf")
        if tl.max(huge.to(tl.int32), axis=0) != 0:
            small = deviation * _SHRINK
            squares = tl.where(huge, tl.sum(small * small, axis=1), squares)
            shrink = tl.where(huge, _SHRINK, shrink)
    return scaled_root(squares, slip, shrink, width, eps)


@triton.jit  # type: ignore[untyped-decorator]
def forward_whole(  # noqa: PLR0917 - a kernel has no keywords
    x: tl.tensor,
    residual: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    y: tl.tensor,
    total: tl.tensor,
    offsets: tl.tensor,
    roots: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    x_stride: tl.tensor,
    residual_stride: tl.tensor,
    eps: tl.tensor,
    weight_offset: tl.tensor,
    centred: tl.constexpr,
    summed: tl.constexpr,
    weighted: tl.constexpr,
    biased: tl.constexpr,
    saved: tl.constexpr,
    block_rows: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Rows of up to ``block`` elements, ``block_rows`` a program; x and residual by their row strides."""
    row = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
    column = tl.arange(0, block)
    real, there = row < rows, column < width
    both = real[:, None] & there[None, :]
    place, other = row * x_stride, row * residual_stride
    in_x, in_residual = place[:, None] + column[None, :], other[:, None] + column[None, :]
    dense = row[:, None] * width + column[None, :]
    rounded = _values(x, residual, in_x, in_residual, both, summed)
    if summed:
        tl.store(total + dense, rounded, mask=both)
    deviation = rounded.to(tl.float32)
    slip = tl.zeros((block_rows,), tl.float32)
    if centred:
        pivot = _values(x, residual, place, other, real, summed).to(tl.float32)
        offset = tl.sum(tl.where(both, deviation - pivot[:, None], 0.0), axis=1) / width
        mean, rest = mean_and_rest(pivot, offset)
        deviation = tl.where(both, (deviation - mean[:, None]) - rest[:, None], 0.0)
        # What rounding the offset has cost: the deviations' own mean, summed beside their squares.
        slip = tl.sum(deviation, axis=1) / width
    root = _root_of_block(deviation, slip, width, eps, x.dtype.element_ty == tl.float16)
    if centred:
        deviation -= slip[:, None]
    if saved:
        tl.store(roots + row, root, mask=real)
        if centred:
            tl.store(offsets + row, offset + slip, mask=real)
    normal = deviation * root[:, None]
    result = affine(normal, weight, bias, weight_offset, column, there, weighted, biased)
    tl.store(y + dense, result.to(y.dtype.element_ty), mask=both)


@triton.jit  # type: ignore[untyped-decorator]
def _sums_of_steps(  # noqa: PLR0917 - a kernel has no keywords
    x: tl.tensor,
    mean: tl.tensor,
    rest: tl.tensor,
    shrink: tl.tensor,
    width: tl.tensor,
    block: tl.constexpr,
) -> Any:
    """Sums over one row: of ((x − mean) − rest) · shrink, and of its squares."""
    sums, squares = tl.zeros((block,), tl.float32), tl.zeros((block,), tl.float32)
    for first in range(0, width, block):
        column = first + tl.arange(0, block)
        there = column < width
        part = tl.load(x + column, mask=there, other=0.0).to(tl.float32)
        part = tl.where(there, ((part - mean) - rest) * shrink, 0.0)
        sums += part
        squares += part * part
    return tl.sum(sums, axis=0), tl.sum(squares, axis=0)


@triton.jit  # type: ignore[untyped-decorator]
def forward_steps(  # noqa: PLR0917 - a kernel has no keywords
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    y: tl.tensor,
    offsets: tl.tensor,
    roots: tl.tensor,
    width: tl.tensor,
    x_stride: tl.tensor,
    eps: tl.tensor,
    weight_offset: tl.tensor,
    centred: tl.constexpr,
    weighted: tl.constexpr,
    biased: tl.constexpr,
    saved: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """One row a program, in steps of ``block`` elements: once for each sum, once for y."""
    row = tl.program_id(0).to(tl.int64)
    source, mean, rest, slip = x + row * x_stride, 0.0, 0.0, 0.0
    if centred:
        pivot = tl.load(source).to(tl.float32)
        offset = _sums_of_steps(source, pivot, 0.0, 1.0, width, block)[0] / width
        mean, rest = mean_and_rest(pivot, offset)
    sums, squares = _sums_of_steps(source, mean, rest, 1.0, width, block)
    shrink = tl.full(squares.shape, 1.0, tl.float32)
    if squares == float("inf"):
        _, squares = _sums_of_steps(source, mean, rest, _SHRINK, width, block)
        shrink = tl.full(squares.shape, _SHRINK, tl.float32)
    if centred:
        slip = sums / width
        rest += slip
        if saved:
            tl.store(offsets + row, offset + slip)
    root = scaled_root(squares, slip, shrink, width, eps)
    if saved:
        tl.store(roots + row, root)
    for first in range(0, width, block):
        column = first + tl.arange(0, block)
        there = column < width
        part = tl.load(source + column, mask=there, other=0.0).to(tl.float32)
        normal = (((part - mean) - rest) * root)[None, :]
        result = affine(normal, weight, bias, weight_offset, column, there, weighted, biased)
        result = tl.reshape(result, (block,)).to(y.dtype.element_ty)
        tl.store(y + row * width + column, result, mask=there)
