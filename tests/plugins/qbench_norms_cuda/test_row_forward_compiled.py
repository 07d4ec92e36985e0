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
STATIC, MX = Quantization("int8", "static"), Quantization("fp8_e4m3", "mx32")
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


#: What takes most registers: kernel, length of rows, elements that an access moves.
WORST = {
    "float32 that is shifted": (Kernel("layer", False, F32, F32), 4096, 1),
    "float32 of odd length": (Kernel("layer", False, F32, F32), 4097, 1),
    "float32 codes that are shifted": (Kernel("layer", False, F32, F32, STATIC), 768, 1),
    "float32 codes of some lanes": (Kernel("layer", True, F32, F32, TOKEN), 1000, 4),
    "float32 codes by row": (Kernel("rms", False, F32, F32, TOKEN), 12_288, 4),
    "bfloat16 of odd length": (Kernel("layer", False, BF16, BF16), 4097, 1),
}


def spilled(kernel: Kernel, n: int, width: int, architecture: Architecture) -> dict[str, object]:
    """The stages of a kernel that use memory for what registers do not hold."""
    held = holding(n, kernel.dtype.itemsize, architecture, kernel.chunk)
    functions = {stage: kernel.function(held, width, stage) for stage in kernel.stages(held)}
    used = {name: inspect_function(each, architecture) for name, each in functions.items()}
    return {name: each for name, each in used.items() if each.spill_bytes or each.stack_bytes}


@pytest.mark.parametrize("architecture", [SM_80, SM_90, SM_100], ids=str)
@pytest.mark.parametrize(("kernel", "n", "width"), WORST.values(), ids=WORST)
def test_nothing_spills_where_most_is_held(
    kernel: Kernel, n: int, width: int, architecture: Architecture
) -> None:
    assert not spilled(kernel, n, width, architecture)


@pytest.mark.parametrize("architecture", [SM_80, SM_90, SM_100], ids=str)
@pytest.mark.parametrize(("n", "items"), [(768, 6), (4096, 8)])
def test_misaligned_vectors_of_a_thread_leave_room_for_512_threads(
    n: int, items: int, architecture: Architecture
) -> None:
    kernel = Kernel("layer", False, F32, F32)
    held = holding(n, 4, architecture)
    assert held.items == items
    assert inspect_function(kernel.function(held, 1), architecture).registers <= 128


LENGTHS = (
    1,
    7,
    32,
    128,
    300,
    768,
    1000,
    1001,
    3072,
    4096,
    4097,
    5120,
    8192,
    12_288,
    16_384,
    65_536,
)
NORMS = {
    "layer": ("layer", False),
    "rms": ("rms", False),
    "adaptive": ("layer", True),
    "l2": ("l2", False),
}


def swept(
    norm: tuple[str, bool],
    dtype: torch.dtype,
    quantization: Quantization | None,
    lengths: tuple[int, ...],
    architecture: Architecture,
) -> dict[object, object]:
    """What spills of a kernel, by length of rows and elements of an access."""
    kernel = Kernel(*norm, dtype, dtype, quantization)
    whole = 16 // dtype.itemsize
    each = [(n, width) for n in lengths for width in (1, whole) if n % width == 0]
    found = {case: spilled(kernel, *case, architecture) for case in each}
    return {case: stages for case, stages in found.items() if stages}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [SM_80, SM_90, SM_100], ids=str)
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_no_length_spills(
    norm: tuple[str, bool], dtype: torch.dtype, architecture: Architecture
) -> None:
    assert not swept(norm, dtype, None, LENGTHS, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [SM_80, SM_90, SM_100], ids=str)
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("quantization", [TOKEN, CHUNK, MX, STATIC], ids=lambda q: q.mode)
def test_no_codes_spill(
    quantization: Quantization, norm: str, dtype: torch.dtype, architecture: Architecture
) -> None:
    assert not swept(NORMS[norm], dtype, quantization, LENGTHS[1::2], architecture)
