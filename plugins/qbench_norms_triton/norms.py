"""The norms: tensors are laid out, outputs made, kernels launched."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from qbench_norms_triton.backward_kernel import (
    backward_steps,
    backward_whole,
    column_parts,
    column_sum,
)
from qbench_norms_triton.forward_kernel import forward_steps, forward_whole
from qbench_norms_triton.sizes import backward_layout, forward_layout

Inputs = Mapping[str, Any]
Outputs = tuple[Tensor, ...]
Thunk = Callable[[], Outputs]

#: Rows and columns of a block of partial sums.
_PART_ROWS, _PART_COLUMNS = 8, 128
#: Contraction is pinned, as the default changes between versions of triton.
_FUSED: dict[str, Any] = {"enable_fp_fusion": True}


class _Rows(NamedTuple):
    """What a forward leaves: float32 statistics are (rows,), empty where they are not saved."""

    y: Tensor
    #: The sum that was normalized: ``x`` itself without a residual.
    total: Tensor
    #: mean − first element, and 1 / sqrt(moment + eps).
    offsets: Tensor
    roots: Tensor


def forward(inputs: Inputs) -> Thunk:
    """y, and the sum where there is a residual, of the inputs of ``layer_norm`` or ``rms_norm``.

    Those of the first alone name a bias, if None. ``x`` and ``residual`` are (rows, N), of any row
    stride, elements of a row side by side.
    """
    if "residual" in inputs:
        return lambda: _forward(inputs, saved=False)[:2]
    return lambda: _forward(inputs, saved=False)[:1]


def backward(inputs: Inputs) -> Thunk:
    """dx, and dweight and dbias where there are such; the statistics are those a forward saves."""
    rows = _forward(inputs, saved=True)
    return lambda: _backward(inputs, rows)


def _forward(inputs: Inputs, *, saved: bool) -> _Rows:
    x, residual = inputs["x"], inputs.get("residual")
    weight, bias = inputs["weight"], inputs.get("bias")
    count, width = x.shape
    layout = forward_layout(width)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    total = x
    if residual is not None:
        total = torch.empty_like(y) if layout.whole else x + residual
    offsets, roots = x.new_empty((2, count if saved else 0), dtype=torch.float32)
    found = _Rows(y, total, offsets, roots)
    if not count:
        return found
    # What is not there is never read: any tensor stands for it.
    vectors = (y if weight is None else weight, y if bias is None else bias)
    numbers = (inputs["eps"], inputs["weight_offset"])
    options = {
        "centred": "bias" in inputs,
        "weighted": weight is not None,
        "biased": bias is not None,
        "saved": saved,
        "block": layout.columns,
        "num_warps": layout.warps,
        **_FUSED,
    }
    if not layout.whole:
        tensors = (total, *vectors, y, offsets, roots)
        forward_steps[(count,)](*tensors, width, total.stride(0), *numbers, **options)
        return found
    other = y if residual is None else residual
    sizes = (count, width, x.stride(0), other.stride(0))
    grid = (triton.cdiv(count, layout.rows),)
    options |= {"summed": residual is not None, "block_rows": layout.rows}
    forward_whole[grid](x, other, *vectors, *found, *sizes, *numbers, **options)
    return found


def _backward(inputs: Inputs, saved: _Rows) -> Outputs:
    dy, dtotal, weight = inputs["dy"].contiguous(), inputs.get("dtotal"), inputs["weight"]
    dtotal = None if dtotal is None else dtotal.contiguous()
    vectors = [v for v in (weight, inputs.get("bias")) if v is not None]
    dx, x = torch.empty_like(dy), saved.total
    count, width = x.shape
    if not count:
        return (dx, *(torch.zeros_like(vector) for vector in vectors))
    layout = backward_layout(width)
    others = (dy if dtotal is None else dtotal, dy if weight is None else weight)
    tensors = (dy, x, *others, saved.offsets, saved.roots, dx)
    sizes = (width, x.stride(0), inputs["weight_offset"])
    options = {
        "centred": "bias" in inputs,
        "summed": dtotal is not None,
        "weighted": weight is not None,
        "block": layout.columns,
        "num_warps": layout.warps,
        **_FUSED,
    }
    if layout.whole:
        programs = min(_programs(x.device, layout.columns), triton.cdiv(count, layout.rows))
        parts = x.new_empty((len(vectors), programs, width), dtype=torch.float32)
        options |= {"biased": len(vectors) > 1, "block_rows": layout.rows}
        backward_whole[(programs,)](*tensors, *_two(parts, dy), count, *sizes, **options)
    else:
        backward_steps[(count,)](*tensors, *sizes, **options)
        parts = _parts(dy, saved, len(vectors), centred="bias" in inputs)
    return (dx, *(_summed(part, vector) for part, vector in zip(parts, vectors, strict=True)))


def _two(parts: Tensor, unused: Tensor) -> tuple[Tensor, Tensor]:
    """Those of dweight and of dbias, ``unused`` for what there is not."""
    found = [*parts, unused, unused]
    return found[0], found[1]


def _parts(dy: Tensor, saved: _Rows, vectors: int, *, centred: bool) -> Tensor:
    """Partial sums of dweight and dbias, (vectors, programs, width)."""
    x = saved.total
    count, width = x.shape
    columns = triton.cdiv(width, _PART_COLUMNS)
    enough = triton.cdiv(8 * _programs(x.device, _PART_COLUMNS), columns)
    programs = max(1, min(enough, triton.cdiv(count, _PART_ROWS)))
    parts = x.new_empty((vectors, programs, width), dtype=torch.float32)
    if vectors:
        tensors = (dy, x, saved.offsets, saved.roots, *_two(parts, dy))
        column_parts[(columns, programs)](
            *tensors,
            count,
            width,
            x.stride(0),
            centred=centred,
            biased=vectors > 1,
            block_rows=_PART_ROWS,
            block=_PART_COLUMNS,
            num_warps=4,
            **_FUSED,
        )
    return parts


def _summed(parts: Tensor, like: Tensor) -> Tensor:
    count, width = parts.shape
    sums = torch.empty_like(like)
    grid = (triton.cdiv(width, _PART_COLUMNS),)
    shape = {"block_rows": _PART_ROWS, "block": _PART_COLUMNS}
    column_sum[grid](parts, sums, count, width, **shape, num_warps=4, **_FUSED)
    return sums


@functools.cache
def _programs(device: torch.device, columns: int) -> int:
    """Programs that share the rows out: as many as run at once, by the registers of their blocks."""
    if device.type == "cpu":  # triton's interpreter
        return 4
    each = 3 if columns <= 2048 else 1
    return each * torch.cuda.get_device_properties(device).multi_processor_count
