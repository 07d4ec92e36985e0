"""Backward kernels: dx row by row, gradients of vectors as partial sums that a second kernel adds up.

With x̂ = (x − mean) · root, mean = pivot + offset, and g = dy · (weight + weight_offset):
``dx = root · (g − mean(g) − x̂ · mean(g · x̂))``, without mean(g) for RMSNorm; ``dweight = Σ dy · x̂``,
``dbias = Σ dy`` over rows.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from qbench_norms_triton.statistics_kernel import mean_and_rest


@triton.jit  # type: ignore[untyped-decorator]
def _normal(  # noqa: PLR0917 - a kernel has no keywords
    x: tl.tensor,
    place: tl.tensor,
    column: tl.tensor,
    there: tl.tensor,
    offset: tl.tensor,
    root: tl.tensor,
    centred: tl.constexpr,
) -> Any:
    """x̂ of elements whose rows start at ``place``, as the forward saved its statistics."""
    values = tl.load(x + (place + column), mask=there, other=0.0).to(tl.float32)
    if centred:
        mean, rest = mean_and_rest(tl.load(x + place).to(tl.float32), offset)
        values = (values - mean) - rest
    return values * root


@triton.jit  # type: ignore[untyped-decorator]
def backward_whole(  # noqa: PLR0917 - a kernel has no keywords
    dy: tl.tensor,
    x: tl.tensor,
    dtotal: tl.tensor,
    weight: tl.tensor,
    offsets: tl.tensor,
    roots: tl.tensor,
    dx: tl.tensor,
    dweight_parts: tl.tensor,
    dbias_parts: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    x_stride: tl.tensor,
    weight_offset: tl.tensor,
    centred: tl.constexpr,
    summed: tl.constexpr,
    weighted: tl.constexpr,
    biased: tl.constexpr,
    block_rows: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Programs share the rows out; each leaves one row of partial sums."""
    column = tl.arange(0, block)[None, :]
    within = column < width
    dweight = tl.zeros((block_rows, block), tl.float32)
    dbias = tl.zeros((block_rows, block), tl.float32)
    scale = weight_offset
    if weighted:
        scale = tl.load(weight + column, mask=within, other=0.0).to(tl.float32) + weight_offset
    for first in range(tl.program_id(0) * block_rows, rows, tl.num_programs(0) * block_rows):
        # Rows beyond the last are the last again, and count for nothing.
        wanted = (first + tl.arange(0, block_rows))[:, None]
        there = (wanted < rows) & within
        row = tl.minimum(wanted, rows - 1).to(tl.int64)
        offset = tl.load(offsets + row) if centred else 0.0
        root = tl.load(roots + row)
        normal = _normal(x, row * x_stride, column, there, offset, root, centred)
        gradient = tl.load(dy + row * width + column, mask=there, other=0.0).to(tl.float32)
        normal = tl.where(there, normal, 0.0)
        scaled = gradient * scale if weighted else gradient
        along = tl.sum(scaled * normal, axis=1)[:, None] / width
        result = scaled - normal * along
        if centred:
            result -= tl.sum(scaled, axis=1)[:, None] / width
        result *= root
        if summed:
            result += tl.load(dtotal + row * width + column, mask=there, other=0.0).to(tl.float32)
        tl.store(dx + row * width + column, result.to(dx.dtype.element_ty), mask=there)
        if weighted:
            dweight += gradient * normal
        if biased:
            dbias += gradient
    _leave(dweight_parts, dweight, width, weighted, block)
    _leave(dbias_parts, dbias, width, biased, block)


@triton.jit  # type: ignore[untyped-decorator]
def _leave(
    parts: tl.tensor, sums: tl.tensor, width: tl.tensor, wanted: tl.constexpr, block: tl.constexpr
) -> None:
    """Store the sum over rows of a block as this program's row of ``parts``."""
    if wanted:
        column = tl.arange(0, block)
        place = parts + tl.program_id(0).to(tl.int64) * width + column
        tl.store(place, tl.sum(sums, axis=0), mask=column < width)


@triton.jit  # type: ignore[untyped-decorator]
def backward_steps(  # noqa: PLR0917 - a kernel has no keywords
    dy: tl.tensor,
    x: tl.tensor,
    dtotal: tl.tensor,
    weight: tl.tensor,
    offsets: tl.tensor,
    roots: tl.tensor,
    dx: tl.tensor,
    width: tl.tensor,
    x_stride: tl.tensor,
    weight_offset: tl.tensor,
    centred: tl.constexpr,
    summed: tl.constexpr,
    weighted: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Dx of one row a program, in steps of ``block`` elements: once for both means, once for dx."""
    row = tl.program_id(0).to(tl.int64)
    root = tl.load(roots + row)
    offset = tl.load(offsets + row) if centred else 0.0
    along, level = tl.zeros((block,), tl.float32), tl.zeros((block,), tl.float32)
    for first in range(0, width, block):
        column = first + tl.arange(0, block)
        there = column < width
        normal = _normal(x, row * x_stride, column, there, offset, root, centred)
        scaled = _scaled(dy + row * width, weight, weight_offset, column, there, weighted)
        along += tl.where(there, scaled * normal, 0.0)
        level += scaled
    mean_along = tl.sum(along, axis=0) / width
    mean = tl.sum(level, axis=0) / width if centred else 0.0
    for first in range(0, width, block):
        column = first + tl.arange(0, block)
        there = column < width
        normal = _normal(x, row * x_stride, column, there, offset, root, centred)
        scaled = _scaled(dy + row * width, weight, weight_offset, column, there, weighted)
        result = (scaled - mean - normal * mean_along) * root
        if summed:
            place = dtotal + row * width + column
            result += tl.load(place, mask=there, other=0.0).to(tl.float32)
        tl.store(dx + row * width + column, result.to(dx.dtype.element_ty), mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _scaled(  # noqa: PLR0917 - a kernel has no keywords
    dy: tl.tensor,
    weight: tl.tensor,
    weight_offset: tl.tensor,
    column: tl.tensor,
    there: tl.tensor,
    weighted: tl.constexpr,
) -> Any:
    """Dy · (weight + weight_offset)."""
    values = tl.load(dy + column, mask=there, other=0.0).to(tl.float32)
    if weighted:
        scale = tl.load(weight + column, mask=there, other=0.0).to(tl.float32)
        values = values * (scale + weight_offset)
    return values


@triton.jit  # type: ignore[untyped-decorator]
def column_parts(  # noqa: PLR0917 - a kernel has no keywords
    dy: tl.tensor,
    x: tl.tensor,
    offsets: tl.tensor,
    roots: tl.tensor,
    dweight_parts: tl.tensor,
    dbias_parts: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    x_stride: tl.tensor,
    centred: tl.constexpr,
    biased: tl.constexpr,
    block_rows: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Partial sums of dweight and dbias of ``block`` columns; programs of axis 1 share the rows out."""
    column = tl.program_id(0) * block + tl.arange(0, block)[None, :]
    dweight = tl.zeros((block_rows, block), tl.float32)
    dbias = tl.zeros((block_rows, block), tl.float32)
    for first in range(tl.program_id(1) * block_rows, rows, tl.num_programs(1) * block_rows):
        wanted = (first + tl.arange(0, block_rows))[:, None]
        there = (wanted < rows) & (column < width)
        row = tl.minimum(wanted, rows - 1).to(tl.int64)
        offset = tl.load(offsets + row) if centred else 0.0
        root = tl.load(roots + row)
        normal = _normal(x, row * x_stride, column, there, offset, root, centred)
        gradient = tl.load(dy + row * width + column, mask=there, other=0.0).to(tl.float32)
        dweight += tl.where(there, gradient * normal, 0.0)
        if biased:
            dbias += gradient
    mine = tl.program_id(1).to(tl.int64) * width
    last = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(dweight_parts + mine + last, tl.sum(dweight, axis=0), mask=last < width)
    if biased:
        tl.store(dbias_parts + mine + last, tl.sum(dbias, axis=0), mask=last < width)


@triton.jit  # type: ignore[untyped-decorator]
def column_sum(  # noqa: PLR0917 - a kernel has no keywords
    parts: tl.tensor,
    sums: tl.tensor,
    count: tl.tensor,
    width: tl.tensor,
    block_rows: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Sums over the rows of ``parts`` (count, width), always in the same order."""
    column = tl.program_id(0) * block + tl.arange(0, block)
    found = tl.zeros((block_rows, block), tl.float32)
    for first in range(0, count, block_rows):
        row = (first + tl.arange(0, block_rows))[:, None]
        there = (row < count) & (column < width)[None, :]
        place = parts + row.to(tl.int64) * width + column[None, :]
        found += tl.load(place, mask=there, other=0.0)
    result = tl.sum(found, axis=0).to(sums.dtype.element_ty)
    tl.store(sums + column, result, mask=column < width)
