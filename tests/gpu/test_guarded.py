"""guarded: the bytes just outside of a tensor cannot be accessed; those inside can."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch

from qbench_suite import KernelError
from qbench_suite.gpu import SM_90, CudaSource, emulating
from qbench_suite.gpu.guarded import guarded
from qbench_suite.native.compiler import find_compiler

SOURCE = CudaSource(Path(__file__).with_name("emulated.cu"))


class Arguments(ctypes.Structure):
    """As in emulated.cu."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("count", ctypes.c_longlong),
        ("choice", ctypes.c_int),
        ("value", ctypes.c_int),
    )


def copy(source: int, target: int) -> None:
    """Copy 32 bytes from address to address."""
    cpu = torch.device("cpu")
    with emulating(SM_90):
        plan = SOURCE.function("copy<unsigned char, 1>").plan(
            grid=(1, 1, 1), block=(32, 1, 1), device=cpu
        )
        plan(Arguments(source, target, 0, 0, 0))


@pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler here")
@pytest.mark.parametrize("before", [False, True], ids=["behind", "in front"])
def test_one_byte_outside_is_found(before: bool) -> None:
    x, other = torch.arange(32, dtype=torch.uint8), torch.zeros(64, dtype=torch.uint8)
    held = guarded(x, before=before)
    copy(held.data_ptr(), other.data_ptr())
    assert torch.equal(other[:32], x)
    outside = held.data_ptr() + (-1 if before else 1)
    with pytest.raises(KernelError, match="an address that cannot be accessed"):
        copy(outside, other.data_ptr())
    with pytest.raises(KernelError, match="an address that cannot be accessed"):
        copy(other.data_ptr(), outside)


@pytest.mark.parametrize("shape", [(), (3, 5), (1000, 7), (0, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_the_copy_equals_the_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    for tensor in (x, x.T if x.ndim == 2 else x):
        held = guarded(tensor)
        assert held.dtype == tensor.dtype
        assert held.is_contiguous()
        assert torch.equal(held, tensor)
