"""Resources: counted in machine code, of the kernel asked for alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qbench_suite.errors import KernelError
from qbench_suite.gpu import (
    SM_80,
    SM_90,
    SM_100,
    Architecture,
    CudaSource,
    inspect_function,
    inspection,
    inspection_unavailable,
    nvrtc,
)

needs_tools = pytest.mark.skipif(bool(inspection_unavailable()), reason=inspection_unavailable())

TEXT = """
extern "C" __global__ void wide(const float4* x, float4* y) {
    y[threadIdx.x] = __ldcs(x + threadIdx.x);
}
extern "C" __global__ void narrow(const float* x, float* y) {
    __shared__ float kept[33];
    kept[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = kept[31 - threadIdx.x];
}
extern "C" __global__ void indexed(const int* x, int* y) {
    int a[32];
    for (int i = 0; i < 32; ++i) a[i] = x[i];
    for (int i = 0; i < 32; ++i) a[a[i] & 31] += i;
    y[threadIdx.x] = a[threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(1024, 2) spilling(float* p) {
    float a[64];
    for (int i = 0; i < 64; ++i) a[i] = p[i * 1024 + threadIdx.x];
    for (int k = 0; k < 9; ++k)
        for (int i = 0; i < 64; ++i) a[i] += a[(i + 7) % 64] * a[63 - i];
    for (int i = 0; i < 64; ++i) p[i * 1024 + threadIdx.x] = a[i];
}
"""


@pytest.fixture
def inspected(
    tmp_path: Path, forgetful: Path
) -> Callable[[str, Architecture], inspection.Resources]:
    (tmp_path / "kernels.cu").write_text(TEXT, encoding="utf-8")
    source = CudaSource(tmp_path / "kernels.cu")
    return lambda name, chip: inspect_function(source.function(name), chip)


@needs_tools
@pytest.mark.parametrize("chip", [SM_80, SM_90, SM_100], ids=str)
def test_each_kernel_is_counted_by_itself(
    inspected: Callable[[str, Architecture], inspection.Resources], chip: Architecture
) -> None:
    wide, narrow = inspected("wide", chip), inspected("narrow", chip)
    assert (wide.wide_loads, wide.wide_stores, wide.loads, wide.stores) == (1, 1, 1, 1)
    assert (narrow.wide_loads, narrow.wide_stores, narrow.loads, narrow.stores) == (0, 0, 1, 1)
    assert (wide.shared_bytes, narrow.shared_bytes) == (0, 33 * 4)
    for plain in (wide, narrow):
        assert 0 < plain.registers <= 32
        assert plain.spill_bytes == plain.stack_bytes == 0


@needs_tools
@pytest.mark.parametrize("chip", [SM_80, SM_90, SM_100], ids=str)
def test_spills_and_stacks_are_told_apart(
    inspected: Callable[[str, Architecture], inspection.Resources], chip: Architecture
) -> None:
    spilling, indexed = inspected("spilling", chip), inspected("indexed", chip)
    assert spilling.spill_bytes > 0
    assert spilling.registers == 32
    assert indexed.spill_bytes == 0
    assert indexed.stack_bytes >= 128


@needs_tools
def test_the_example_keeps_to_what_a_kernel_of_the_suite_may_use(axpy: Any) -> None:
    found = inspect_function(axpy.function(torch.float16), SM_90)
    assert found.spill_bytes == found.stack_bytes == 0
    assert found.wide_loads >= 2
    assert found.wide_stores >= 1


@needs_tools
def test_without_nvdisasm_there_is_a_remedy(axpy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "tool", lambda name: None)
    with pytest.raises(KernelError, match=r"nvdisasm.*pip install triton"):
        inspect_function(axpy.function(torch.float16), SM_90)


@needs_tools
def test_what_nvdisasm_refuses_is_an_error(axpy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = nvrtc.Binary(b"no cubin", "f", "Used 8 registers")
    monkeypatch.setattr(inspection, "compiled", lambda function, chip: broken)
    with pytest.raises(KernelError, match=r"nvdisasm reads what NVRTC compiles.*as new as NVRTC"):
        inspect_function(axpy.function(torch.float16), SM_90)


@needs_tools
def test_ptx_has_no_account(axpy: Any) -> None:
    newer = Architecture(99, 0, 4, 65_536, 1 << 20)
    with pytest.raises(KernelError, match="for an architecture that NVRTC knows"):
        inspect_function(axpy.function(torch.float16), newer)


@pytest.mark.parametrize(
    ("missing", "words"),
    [("version", "NVRTC is missing"), ("headers", "nvidia-cuda-runtime"), ("tool", "triton")],
)
def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, missing: str, words: str) -> None:
    def refuse() -> str:
        raise KernelError("NVRTC is missing")

    stands = {"version": lambda: "13.2", "headers": lambda: Path(), "tool": lambda name: Path()}
    gone = {"version": refuse, "headers": lambda: None, "tool": lambda name: None}
    for name, stand in stands.items():
        monkeypatch.setattr(inspection, name, gone[name] if name == missing else stand)
    assert words in inspection_unavailable()
    monkeypatch.setattr(inspection, missing, stands[missing])
    assert inspection_unavailable() == ""
