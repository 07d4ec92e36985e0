"""The example kernel, where kernels run, and caches of each test's own."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from qbench_suite.gpu import (
    SM_90,
    CudaFunction,
    CudaSource,
    architectures,
    cubins,
    driver,
    emulating,
    launch,
    loaded,
    nvrtc,
    toolkit,
)
from qbench_suite.native.compiler import find_compiler


class Arguments(ctypes.Structure):
    """The struct of axpy_arguments.cuh."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("count", ctypes.c_longlong),
        ("a", ctypes.c_float),
        ("aligned", ctypes.c_int),
    )


@dataclass(frozen=True)
class Axpy:
    """What a plugin writes in Python for the kernels of axpy.cu."""

    source: CudaSource
    arguments: type[Arguments] = Arguments

    def function(self, dtype: torch.dtype) -> CudaFunction:
        name = {torch.float32: "float", torch.float16: "__half"}[dtype]
        return self.source.function(f"axpy<{name}, {16 // dtype.itemsize}>")

    def __call__(self, a: float, x: torch.Tensor, y: torch.Tensor) -> None:
        """Y += a · x."""
        blocks = min(-(-x.numel() // 2048), 3)
        plan = self.function(x.dtype).plan(
            grid=(blocks, 1, 1), block=(256, 1, 1), dependent=True, device=x.device
        )
        aligned = (x.data_ptr() | y.data_ptr()) % 16 == 0
        plan(self.arguments(x.data_ptr(), y.data_ptr(), x.numel(), a, aligned))


@pytest.fixture
def axpy() -> Axpy:
    return Axpy(CudaSource(Path(__file__).parent / "axpy.cu"))


@pytest.fixture(params=["emulator", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Where kernels run: an emulated sm_90 on the CPU, and the GPU where there is one."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        yield torch.device("cuda")
    else:
        if find_compiler() is None or toolkit.headers() is None:
            pytest.skip("no C++ compiler, or none of CUDA's headers")
        with emulating(SM_90):
            yield torch.device("cpu")


@pytest.fixture
def forgetful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of its own, and no memory of what was read, found or compiled before."""
    monkeypatch.setenv("QBENCH_CACHE", str(tmp_path / "a cache"))
    remembered = (
        architectures._properties,
        cubins.compiled,
        driver.context_of,
        launch._in_emulator,
        launch._on_device,
        loaded.loaded,
        nvrtc.version,
        toolkit.headers,
        toolkit.tool,
    )
    for function in remembered:
        function.cache_clear()
    yield tmp_path / "a cache" / "kernels"
    for function in remembered:
        function.cache_clear()
