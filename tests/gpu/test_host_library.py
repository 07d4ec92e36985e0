"""Libraries of kernels for the emulator: built once, kept whole, and clear about what is missing."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qbench_suite import KernelError
from qbench_suite.gpu import SM_90, CudaSource
from qbench_suite.gpu import emulator as emulator_module
from qbench_suite.gpu import host_library as module
from qbench_suite.gpu.emulator import emulate, prebuild
from qbench_suite.native.compiler import Compiler, find_compiler

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler here")

FILL = """
#include "qbench/device.cuh"
struct Arguments { float* out; float value; };
template <int Times>
__global__ void fill(const __grid_constant__ Arguments args) {
    args.out[threadIdx.x] = Times * args.value;
}
"""

MEET = """
#include "qbench/device.cuh"
struct Arguments { float* out; float value; };
__global__ void meet(const __grid_constant__ Arguments args) {
    float* shared = reinterpret_cast<float*>(qb::extern_shared());
    shared[threadIdx.x] = threadIdx.x;
    if (args.value < 0 && threadIdx.x == 0) qb::cluster_sync();
    else __syncthreads();
    args.out[blockIdx.x * blockDim.x + threadIdx.x] = shared[threadIdx.x ^ 1] + args.value;
}
"""


class Arguments(ctypes.Structure):
    """As in FILL."""

    _fields_ = (("out", ctypes.c_void_p), ("value", ctypes.c_float))


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for libraries, and no memory of any."""
    monkeypatch.setenv("QBENCH_CACHE", str(tmp_path / "a cache"))
    monkeypatch.setattr(emulator_module, "_kernels", {})
    return tmp_path / "a cache" / "emulator"


@pytest.fixture
def source(tmp_path: Path) -> CudaSource:
    path = tmp_path / "fill.cu"
    path.write_text(FILL)
    return CudaSource(path)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stems of what has been compiled."""
    built: list[str] = []
    build = Compiler.build

    def counted(
        self: Compiler, source: Path, target: Path, flags: tuple[str, ...], arch: str
    ) -> str:
        built.append(source.name.split("-")[0])
        return build(self, source, target, flags, arch)

    monkeypatch.setattr(Compiler, "build", counted)
    return built


def filled(source: CudaSource, times: int = 3) -> list[float]:
    out = torch.zeros(4)
    run = emulate(source.function(f"fill<{times}>"), SM_90)
    run(Arguments(out.data_ptr(), 2.0), (1, 1, 1), (4, 1, 1), 1, 0)
    return out.tolist()


def test_a_kernel_is_built_once(
    source: CudaSource, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert filled(source) == [6.0] * 4
    assert filled(source) == [6.0] * 4
    monkeypatch.setattr(emulator_module, "_kernels", {})  # as in the next process
    assert filled(source) == [6.0] * 4
    assert builds.count("fill") == 1


def test_many_instantiations_are_one_library(source: CudaSource, builds: list[str]) -> None:
    prebuild([source.function(f"fill<{times}>") for times in (2, 3, 4, 3)], SM_90)
    assert [filled(source, times)[0] for times in (2, 3, 4)] == [4.0, 6.0, 8.0]
    assert builds.count("fill") == 1


def test_a_changed_source_is_built_anew(
    source: CudaSource, tmp_path: Path, builds: list[str]
) -> None:
    assert filled(source) == [6.0] * 4
    other = CudaSource(tmp_path / "other" / "fill.cu")
    other.path.parent.mkdir()
    other.path.write_text(FILL.replace("Times *", "2 * Times *"))
    assert filled(other) == [12.0] * 4
    assert builds.count("fill") == 2


def test_a_damaged_library_is_built_anew(
    source: CudaSource, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prebuild([source.function("fill<5>")], SM_90)
    # Another file of that name: the one that is loaded must not change under the process.
    (library,) = kept.glob("fill-*.so")
    library.rename(library.with_suffix(".loaded"))
    library.write_bytes(b"\x7fELF, cut short")
    monkeypatch.setattr(emulator_module, "_kernels", {})
    assert filled(source, 5) == [10.0] * 4


def test_without_a_cache_a_temporary_folder_does(
    source: CudaSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("QBENCH_CACHE", str(tmp_path / "file"))
    assert filled(source) == [6.0] * 4


def test_without_precompiled_headers_it_is_the_same(
    source: CudaSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = find_compiler()
    assert compiler is not None
    like_clang = Compiler(compiler.command, "clang, for all we know")
    monkeypatch.setattr(module, "find_compiler", lambda: like_clang)
    assert filled(source) == [6.0] * 4


def test_no_compiler(source: CudaSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(KernelError, match=r"a C\+\+ compiler; none was found; install g\+\+"):
        filled(source)


def test_no_headers(source: CudaSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator_module, "headers", lambda: None)
    with pytest.raises(KernelError, match="CUDA's headers; none were found; pip install"):
        filled(source)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("args.value", "args.valeu"), "fill is not: .*valeu.*QB_HOST_EMU"),
        (("args.out[", "__shared__ float x[4]; args.out["), "QB_SHARED"),
        (("fill(", "full("), "fill.*not declared"),
    ],
    ids=["an error", "plain shared memory", "no such kernel"],
)
def test_what_does_not_compile(source: CudaSource, change: tuple[str, str], message: str) -> None:
    source.path.write_text(FILL.replace(*change))
    with pytest.raises(KernelError, match=message):
        filled(source)


def test_fibers_without_assembly(source: CudaSource, monkeypatch: pytest.MonkeyPatch) -> None:
    portable: Callable[..., int] = module._runtime("-DQB_ASSEMBLY_SWITCH=0")
    monkeypatch.setattr(module, "_runtime", lambda: portable)
    source.path.write_text(MEET)
    out = torch.zeros(192)
    run = emulate(source.function("meet"), SM_90)
    run(Arguments(out.data_ptr(), 2.0), (3, 1, 1), (64, 1, 1), 1, 256)
    assert torch.equal(out, (torch.arange(192) % 64 ^ 1) + 2.0)
    with pytest.raises(KernelError, match="cannot be accessed, 0x10: thread"):
        run(Arguments(16, 2.0), (1, 1, 1), (64, 1, 1), 1, 256)
    with pytest.raises(KernelError, match="nobody can go on: 63 threads wait at __syncthreads"):
        run(Arguments(out.data_ptr(), -1.0), (1, 1, 1), (64, 1, 1), 1, 256)
