"""What the compiler makes of the kernels, without a GPU: registers, no spills, 128 bits at a time."""

from __future__ import annotations

import pytest
import torch

from qbench_norms_cuda.row_kernels import Kernel, Quantization
from qbench_norms_cuda.row_plan import holding
from qbench_suite import (
    SM_80,
    SM_90,
    SM_100,
    Architecture,
    inspect_function,
    inspection_unavailable,
)

pytestmark = pytest.mark.skipif(bool(inspection_unavailable()), reason=inspection_unavailable())

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
TOKEN, CHUNK = Quantization("int8", "token"), Quantization("fp8_e4m3", "chunk128")
#: Kernel, length of rows, registers at most: 64 leave room for 1024 threads, 80 for 768.
KERNELS = {
    "some lanes": (Kernel("rms", False, BF16, BF16), 768, 64),
    "a block": (Kernel("layer", False, BF16, BF16), 4096, 64),
    "float16": (Kernel("layer", True, F16, F16), 3072, 64),
    "float32": (Kernel("layer", False, F32, F32), 4096, 80),
    "float32 weights": (Kernel("rms", False, BF16, F32), 4096, 64),
    "shared memory": (Kernel("layer", False, BF16, BF16), 32_768, 64),
    "slices": (Kernel("layer", False, F32, F32), 1 << 22, 80),
    "weight_norm": (Kernel("l2", False, F16, F16), 4096, 64),
    "codes by row": (Kernel("rms", False, BF16, BF16, TOKEN), 4096, 80),
    "codes by chunk": (Kernel("layer", False, BF16, BF16, CHUNK), 4096, 80),
}


@pytest.mark.parametrize("architecture", [SM_80, SM_90, SM_100], ids=str)
@pytest.mark.parametrize(("kernel", "n", "registers"), KERNELS.values(), ids=KERNELS)
def test_rows_stay_in_registers(
    kernel: Kernel, n: int, registers: int, architecture: Architecture
) -> None:
    size = kernel.dtype.itemsize
    held = holding(n, size, architecture, kernel.chunk)
    for stage in kernel.stages(held):
        used = inspect_function(kernel.function(held, 16 // size, stage), architecture)
        assert used.spill_bytes == 0
        assert used.stack_bytes == 0
        assert used.registers <= registers
        assert used.wide_loads > 0
        if kernel.quantization is None:
            assert used.wide_stores > 0


@pytest.mark.parametrize("architecture", [SM_80, SM_90, SM_100], ids=str)
def test_rows_of_odd_length_are_moved_128_bits_at_a_time(architecture: Architecture) -> None:
    kernel = Kernel("rms", False, BF16, BF16)
    used = inspect_function(kernel.function(holding(1001, 2, architecture), 1), architecture)
    assert used.spill_bytes == 0
    assert used.stack_bytes == 0
    assert used.registers <= 80
    assert used.wide_loads > 0
    assert used.wide_stores > 0
