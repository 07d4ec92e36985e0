"""The launches of a backward of rows: which kernels, in how many blocks, and what they are given."""

from __future__ import annotations

import ctypes
import functools
import struct
from pathlib import Path
from typing import NamedTuple

import torch

from qbench_norms_cuda.column_sum import C_NAMES
from qbench_norms_cuda.row_split import RowSplit, split_row
from qbench_suite import Architecture, CudaSource, LaunchPlan

SOURCE = CudaSource(Path(__file__).parent / "csrc" / "row_backward.cu")
STATISTICS = {"layer": 0, "rms": 1, "l2": 2}
#: Phases: of whole rows; or of tiles, their two sums first and then their gradients.
WHOLE, SUMS, APPLY = range(3)
#: What becomes of the gradients of multiplier and addend: nothing, the first or both are summed over
#: rows, or they are written for each row.
NONE, FIRST, BOTH, EACH_ROW = range(4)
_ROW_SUMS_THREADS = 256


class RowBackward(ctypes.Structure):
    """The struct of csrc/row_backward.cuh."""

    _fields_ = (
        ("dy", ctypes.c_void_p),
        ("x", ctypes.c_void_p),
        ("dtotal", ctypes.c_void_p),
        ("multiplier", ctypes.c_void_p),
        ("offset", ctypes.c_void_p),
        ("rstd", ctypes.c_void_p),
        ("dx", ctypes.c_void_p),
        ("gradients", ctypes.c_void_p * 2),
        ("partial", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("columns", ctypes.c_longlong),
        ("pitch", ctypes.c_longlong),
        ("groups", ctypes.c_longlong),
        ("group_rows", ctypes.c_longlong),
        ("dy_stride", ctypes.c_longlong),
        ("x_stride", ctypes.c_longlong),
        ("dtotal_stride", ctypes.c_longlong),
        ("steps", ctypes.c_longlong * 3),
        ("dx_step", ctypes.c_longlong),
        ("rest", ctypes.c_longlong),
        ("multiplier_group_stride", ctypes.c_longlong),
        ("multiplier_row_stride", ctypes.c_longlong),
        ("tiles", ctypes.c_int),
        ("tile_columns", ctypes.c_int),
        ("turns", ctypes.c_int),
        ("parts", ctypes.c_int),
        ("threads", ctypes.c_int),
        ("multiplier_offset", ctypes.c_float),
        ("share", ctypes.c_float),
    )


class RowSums(ctypes.Structure):
    """The struct of the kernel that adds up the sums of tiles."""

    _fields_ = (
        ("partial", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("tiles", ctypes.c_longlong),
    )


#: All fields at once: several times faster than one by one.
PACK = struct.Struct("25q5i2f4x").pack


class RowKernel(NamedTuple):
    """What decides which kernels run, and in how many blocks."""

    statistic: str
    #: What becomes of the gradients of multiplier and addend.
    sums: int
    #: Tensors that are read: dy, x, and dtotal where there is one.
    tensors: int
    dtype: torch.dtype
    multiplier_dtype: torch.dtype
    columns: int
    groups: int
    group_rows: int
    #: Elements that one access moves.
    width: int

    def expression(self, split: RowSplit, phase: int) -> str:
        """The kernel of a launch, in C++."""
        of_sums = phase == SUMS
        numbers = (
            STATISTICS[self.statistic],
            NONE if of_sums else self.sums,
            phase,
            2 if of_sums else self.tensors,
            split.items,
            split.stages,
            self.width,
        )
        names = (C_NAMES[self.dtype], C_NAMES[self.multiplier_dtype], *map(str, numbers))
        return f"row_backward<{', '.join(names)}>"


class RowLaunches(NamedTuple):
    """The launches of a backward: ``tiles`` and ``rows`` where no launch sees whole rows."""

    split: RowSplit
    parts: int
    last: LaunchPlan
    tiles: LaunchPlan | None = None
    rows: LaunchPlan | None = None


@functools.lru_cache(maxsize=4096)
def launches(kernel: RowKernel, device: torch.device, architecture: Architecture) -> RowLaunches:
    """The launches of ``kernel``, made once."""
    split = split_row(kernel.columns, kernel.dtype.itemsize, kernel.tensors, architecture)
    summed = kernel.sums in (FIRST, BOTH)
    parts = split.parts(kernel.groups, kernel.group_rows, summed, architecture)

    def plan(phase: int) -> LaunchPlan:
        return SOURCE.function(kernel.expression(split, phase)).plan(
            grid=(split.tiles * parts * kernel.groups, 1, 1),
            block=(split.block, 1, 1),
            cluster=split.tiles if split.clustered else 1,
            shared_bytes=split.shared_bytes(2 if phase == SUMS else kernel.tensors),
            dependent=True,
            device=device,
        )

    if not split.tiled:
        return RowLaunches(split, parts, plan(WHOLE))
    of_rows = SOURCE.function("row_sums").plan(
        grid=(kernel.groups * kernel.group_rows, 1, 1),
        block=(_ROW_SUMS_THREADS, 1, 1),
        dependent=True,
        device=device,
    )
    return RowLaunches(split, parts, plan(APPLY), plan(SUMS), of_rows)
