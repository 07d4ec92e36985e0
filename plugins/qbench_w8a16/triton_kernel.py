"""The kernel for NVIDIA and AMD devices; imported only where triton is."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qbench_w8a16.codes import bits_of


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # noqa: PLR0917 - a kernel has no keywords
    x: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    bias: tl.tensor,
    y: tl.tensor,
    rows: tl.tensor,
    outputs: tl.tensor,
    width: tl.tensor,
    row_bytes: tl.tensor,
    group: tl.tensor,
    groups: tl.tensor,
    bits: tl.constexpr,
    grouped: tl.constexpr,
    biased: tl.constexpr,
    block_rows: tl.constexpr,
    block_outputs: tl.constexpr,
    block_width: tl.constexpr,
) -> None:
    # Codes are widened in registers; neither float weights nor unscaled results reach memory.
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    out = tl.program_id(1) * block_outputs + tl.arange(0, block_outputs)
    row_there, out_there = row < rows, out < outputs
    total = tl.zeros((block_rows, block_outputs), tl.float32)
    for first in range(0, width, block_width):
        k = first + tl.arange(0, block_width)
        x_there = row_there[:, None] & (k < width)[None, :]
        values = tl.load(
            x + row[:, None].to(tl.int64) * width + k[None, :], mask=x_there, other=0.0
        )
        if bits == 8:
            there = out_there[:, None] & (k < width)[None, :]
            start = codes + out[:, None].to(tl.int64) * width
            weights = tl.load(start + k[None, :], mask=there, other=0).to(tl.float32)
        else:
            pair = first // 2 + tl.arange(0, block_width // 2)
            there = out_there[:, None] & (pair < row_bytes)[None, :]
            start = codes + out[:, None].to(tl.int64) * row_bytes
            both = tl.load(start + pair[None, :], mask=there, other=0).to(tl.int32)
            low, high = ((both & 15) ^ 8) - 8, ((both >> 4) ^ 8) - 8
            weights = tl.interleave(low, high).to(tl.float32)
        part = tl.dot(values, tl.trans(weights.to(values.dtype)), input_precision="ieee")
        if grouped:
            place = scales + out.to(tl.int64) * groups + first // group
            total += part * tl.load(place, mask=out_there, other=0.0)[None, :]
        else:
            total += part
    if not grouped:
        total *= tl.load(scales + out, mask=out_there, other=0.0)[None, :]
    if biased:
        total += tl.load(bias + out, mask=out_there, other=0.0).to(tl.float32)[None, :]
    place = y + row[:, None].to(tl.int64) * outputs + out[None, :]
    tl.store(place, total.to(y.dtype.element_ty), mask=row_there[:, None] & out_there[None, :])


def block_width(group: int, groups: int) -> int:
    """Elements of k a step: a power of two within 16 … 64 that divides ``group``, if groups are many."""
    width = 64
    while groups > 1 and group % width:
        width //= 2
    return width


def linear(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, group: int) -> Tensor:
    """(rows, in) → (rows, out), sums in float32; groups are multiples of 16, or one a row."""
    rows, width = x.shape
    outputs, groups = scales.shape
    y = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    block_rows, block_outputs = min(64, max(16, triton.next_power_of_2(rows))), 64
    grid = (triton.cdiv(rows, block_rows), triton.cdiv(outputs, block_outputs))
    _kernel[grid](
        x.contiguous(),
        codes.contiguous(),
        scales.contiguous(),
        scales if bias is None else bias.contiguous(),
        y,
        rows,
        outputs,
        width,
        codes.shape[1],
        group,
        groups,
        bits=bits_of(codes),
        grouped=groups > 1,
        biased=bias is not None,
        block_rows=block_rows,
        block_outputs=block_outputs,
        block_width=block_width(group, groups),
    )
    return y
