"""Registers, spills and access widths of the backward of rows, without a GPU."""

from __future__ import annotations

import pytest
import torch

from qbench_norms_cuda.column_sum import SOURCE as COLUMN_SUM
from qbench_norms_cuda.row_launches import (
    APPLY,
    BOTH,
    EACH_ROW,
    FIRST,
    NONE,
    SOURCE,
    SUMS,
    WHOLE,
    RowKernel,
)
from qbench_norms_cuda.row_split import split_row
from qbench_suite import (
    SM_80,
    SM_90,
    SM_100,
    Architecture,
    CudaFunction,
    KernelError,
    Resources,
    inspect_function,
)

FLOAT, HALF, BFLOAT = torch.float32, torch.float16, torch.bfloat16
#: LayerNorm, RMSNorm, residual, AdaLN a token, both launches of tiles, and three vectors a thread.
KERNELS = {
    "layer": (WHOLE, "layer", BOTH, 2, BFLOAT, BFLOAT, 4096),
    "layer-float": (WHOLE, "layer", BOTH, 2, FLOAT, FLOAT, 4096),
    "layer-float-weight": (WHOLE, "layer", BOTH, 2, HALF, FLOAT, 4096),
    "layer-short": (WHOLE, "layer", BOTH, 2, BFLOAT, BFLOAT, 128),
    "layer-12288": (WHOLE, "layer", BOTH, 2, BFLOAT, BFLOAT, 12_288),
    "rms-residual": (WHOLE, "rms", FIRST, 3, BFLOAT, BFLOAT, 4096),
    "layer-token": (WHOLE, "layer", EACH_ROW, 2, BFLOAT, BFLOAT, 1152),
    "layer-tiles-sums": (SUMS, "layer", NONE, 2, BFLOAT, BFLOAT, 4_000_000),
    "layer-tiles": (APPLY, "layer", BOTH, 2, BFLOAT, BFLOAT, 4_000_000),
}


def resources(function: CudaFunction, architecture: Architecture) -> Resources:
    try:
        return inspect_function(function, architecture)
    except KernelError as error:
        if "nvdisasm" in str(error) or "NVRTC" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize("architecture", [SM_80, SM_90, SM_100], ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_nothing_spills_and_accesses_are_wide(name: str, architecture: Architecture) -> None:
    phase, statistic, sums, tensors, dtype, of_multiplier, columns = KERNELS[name]
    lanes = 16 // dtype.itemsize
    split = split_row(columns, dtype.itemsize, tensors, architecture)
    kernel = RowKernel(
        statistic, sums, tensors, dtype, of_multiplier, columns, groups=1, group_rows=9, width=lanes
    )
    found = resources(SOURCE.function(kernel.expression(split, phase)), architecture)
    assert found.spill_bytes == found.stack_bytes == 0
    assert found.registers <= 128
    # Each stage but the last is filled ahead of the loop, which fills another.
    assert found.wide_loads >= split.stages * tensors * split.items
    assert found.wide_stores >= (0 if phase == SUMS else split.items)


def test_column_sum_is_small() -> None:
    found = resources(COLUMN_SUM.function("column_sum<__half>"), SM_90)
    assert found.spill_bytes == found.stack_bytes == 0
    assert found.registers <= 40
    assert found.wide_loads == found.loads
