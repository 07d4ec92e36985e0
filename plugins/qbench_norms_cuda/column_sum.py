"""Sums of partial sums: the second stage of the gradients of weights."""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from qbench_suite import Architecture, CudaSource, LaunchPlan, architecture_of

SOURCE = CudaSource(Path(__file__).parent / "csrc" / "column_sum.cu")
#: Names of dtypes in C++.
C_NAMES = {torch.float32: "float", torch.float16: "__half", torch.bfloat16: "__nv_bfloat16"}
#: Columns that a block sums, and threads side by side that do.
_COLUMNS, _LANES = 32, 8


class ColumnSum(ctypes.Structure):
    """The struct of csrc/column_sum.cuh."""

    _fields_ = (
        ("partial", ctypes.c_void_p),
        ("outputs", ctypes.c_void_p * 2),
        ("columns", ctypes.c_longlong),
        ("pitch", ctypes.c_longlong),
        ("groups", ctypes.c_longlong),
        ("parts", ctypes.c_int),
    )


def partial_sums(
    outputs: int, groups: int, parts: int, columns: int, device: torch.device
) -> Tensor:
    """Room for partial sums, not filled: ``(outputs, groups, parts, columns rounded up to fours)``."""
    shape = (outputs, groups, parts, -(-columns // 4) * 4)
    return torch.empty(shape, dtype=torch.float32, device=device)


#: All fields at once: several times faster than one by one.
_PACK = struct.Struct("6qi4x").pack


def column_sum(partial: Tensor, outputs: Sequence[Tensor | None]) -> None:
    """``outputs[k] = partial[k].sum(1)``, in float32 and rounded once to the dtype of the outputs.

    partial: ``(K, groups, parts, pitch)`` float32 of ``partial_sums``, K up to 2. outputs: K times
    ``(groups, columns)``, or ``(columns,)`` of one group, contiguous and of one dtype, or None for one
    that is not asked for. The order of a sum depends on ``parts`` alone; without parts it is 0. NaN
    and ±Inf go through.
    """
    dtype, elements = None, 0
    for output in outputs:
        if output is not None:
            dtype, elements = output.dtype, output.numel()
    if dtype is None or not elements:
        return
    count, groups, parts, pitch = partial.shape
    columns, device = elements // groups, partial.device
    first, second = (*outputs, None)[:2]
    _plan(dtype, count * groups, columns, parts, device, architecture_of(device))(
        ColumnSum.from_buffer_copy(
            _PACK(
                partial.data_ptr(),
                0 if first is None else first.data_ptr(),
                0 if second is None else second.data_ptr(),
                *(columns, pitch, groups, parts),
            )
        )
    )


@functools.lru_cache(maxsize=4096)
def _plan(
    dtype: torch.dtype,
    sums: int,
    columns: int,
    parts: int,
    device: torch.device,
    architecture: Architecture,
) -> LaunchPlan:
    """The launch of ``sums`` sums of rows on ``device``, which is, or stands for, ``architecture``."""
    walkers = min(max(1 << (parts - 1).bit_length(), 4), 32) if parts else 4
    return SOURCE.function(f"column_sum<{C_NAMES[dtype]}>").plan(
        grid=(-(-columns // _COLUMNS) * sums, 1, 1),
        block=(walkers * _LANES, 1, 1),
        dependent=True,
        device=device,
    )
