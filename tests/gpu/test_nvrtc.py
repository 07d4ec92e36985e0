"""NVRTC: what it compiles for, and how it says what is wrong."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qbench_suite.errors import DeviceError, KernelError
from qbench_suite.gpu import (
    SM_75,
    SM_80,
    SM_90,
    SM_100,
    SM_120,
    Architecture,
    CudaSource,
    nvrtc,
    toolkit,
)

pytest.importorskip("cuda.bindings.nvrtc", reason="cuda.bindings is not installed")
pytestmark = pytest.mark.skipif(toolkit.headers() is None, reason="none of CUDA's headers")


def chip(major: int, minor: int) -> Architecture:
    return Architecture(major, minor, 4, 65_536, 1 << 20)


@pytest.fixture
def written(tmp_path: Path, forgetful: Path) -> Callable[[str], CudaSource]:
    def write(text: str) -> CudaSource:
        (tmp_path / "k.cu").write_text(text, encoding="utf-8")
        return CudaSource(tmp_path / "k.cu")

    return write


@pytest.mark.parametrize("architecture", [SM_75, SM_80, SM_90, SM_100, SM_120], ids=str)
def test_the_example_compiles_for(axpy: Any, architecture: Architecture) -> None:
    target = nvrtc.target_of(architecture)
    assert target.option == architecture.target
    binary = nvrtc.compile_function(axpy.function(torch.float16), target)
    assert binary.image.startswith(b"\x7fELF")
    assert binary.name in binary.image.decode("latin-1")
    assert re.search(r"\b0 bytes spill stores", binary.account)
    assert "registers" in binary.account


def test_a_device_newer_than_nvrtc_gets_ptx_of_the_newest_it_knows(axpy: Any) -> None:
    target = nvrtc.target_of(chip(99, 0))
    assert target.ptx
    binary = nvrtc.compile_function(axpy.source.function("ranks"), target)
    assert f".target sm_{target.option.removeprefix('compute_')}" in binary.image.decode()
    assert (binary.name, binary.account) == ("ranks", "")
    assert list(b" ") == [32], "NVRTC's empty log was written into what Python shares"


@pytest.mark.parametrize(
    ("known", "wanted", "option"),
    [
        ([75, 80, 90], (8, 9), "compute_80"),
        ([75, 80, 90], (10, 0), "compute_90"),
        ([50, 60, 75], (7, 5), "sm_75"),
    ],
)
def test_the_target_is_exact_or_older(
    monkeypatch: pytest.MonkeyPatch, known: list[int], wanted: tuple[int, int], option: str
) -> None:
    monkeypatch.setattr(nvrtc, "_ask", lambda name: tuple(known))
    assert nvrtc.target_of(chip(*wanted)).option == option


@pytest.mark.parametrize("known", [[50, 60, 70, 75], [80, 90]], ids=str)
def test_an_old_architecture_is_refused(monkeypatch: pytest.MonkeyPatch, known: list[int]) -> None:
    monkeypatch.setattr(nvrtc, "_ask", lambda name: tuple(known))
    with pytest.raises(DeviceError, match=rf"for sm_{max(75, known[0])} and newer.*is sm_70"):
        nvrtc.target_of(chip(7, 0))


@pytest.mark.parametrize(
    ("text", "expression", "words"),
    [
        (
            "__global__ void f() {\n  int x = nowhere;\n}",
            "f",
            r'k\.cu\(2\): error: identifier "nowhere"',
        ),
        ("template <int N> __global__ void f() {}", "f<1, 2>", "cannot determine which instance"),
        ("__global__ void f() {}", "g", '"g" is undefined'),
        ("#include <no_such_header.h>", "f", r"k\.cu\(1\): .*no_such_header"),
        ("int f(int x) { return x; }", "f(", "expected"),
    ],
)
def test_what_does_not_compile_is_named(
    written: Callable[[str], CudaSource], text: str, expression: str, words: str
) -> None:
    with pytest.raises(KernelError, match=words) as caught:
        nvrtc.compile_function(written(text).function(expression), nvrtc.Target("sm_80"))
    assert str(caught.value).startswith(
        f"a kernel is valid CUDA C++; {expression} of k.cu does not compile for sm_80: "
    )
    assert str(caught.value).endswith("correct the source, or the template arguments.")


def test_headers_are_found_beside_the_file_that_includes_them(
    written: Callable[[str], CudaSource], tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.cuh").write_text('#include "c.cuh"\n', encoding="utf-8")
    (tmp_path / "deep" / "c.cuh").write_text("const int three = 3;\n", encoding="utf-8")
    source = written('#include "deep/b.cuh"\n__global__ void f(int* p) { *p = three; }')
    assert nvrtc.compile_function(source.function("f"), nvrtc.Target("sm_80")).image


def test_headers_that_are_missing_are_asked_for(
    written: Callable[[str], CudaSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvrtc, "headers", lambda: None)
    source = written("#include <cuda_fp16.h>\n__global__ void f() {}")
    with pytest.raises(KernelError, match="pip install nvidia-cuda-runtime"):
        nvrtc.compile_function(source.function("f"), nvrtc.Target("sm_80"))


def test_what_spills_is_accounted_for(written: Callable[[str], CudaSource]) -> None:
    source = written(
        "__global__ void __launch_bounds__(1024, 2) f(float* p) { float a[64];\n"
        "for (int i = 0; i < 64; ++i) a[i] = p[i * 1024 + threadIdx.x];\n"
        "for (int k = 0; k < 9; ++k) for (int i = 0; i < 64; ++i) a[i] += a[(i + 7) % 64] * a[63 - i];\n"
        "for (int i = 0; i < 64; ++i) p[i * 1024 + threadIdx.x] = a[i]; }\n"
        "__global__ void other(float* p) { *p = 0; }"
    )
    spilled = nvrtc.compile_function(source.function("f"), nvrtc.Target("sm_80")).account
    assert not re.search(r"\b0 bytes spill stores", spilled)
    plain = nvrtc.compile_function(source.function("other"), nvrtc.Target("sm_80")).account
    assert re.search(r"\b0 bytes spill stores", plain)


def test_without_cuda_bindings_there_is_a_remedy(
    forgetful: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any) -> Any:
        if name == "cuda.bindings":
            raise ImportError("No module named 'cuda'")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(KernelError, match=r"No module named 'cuda'; install a CUDA build of torch"):
        nvrtc.version()


def test_bindings_without_the_library_have_a_remedy(
    forgetful: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise RuntimeError("libnvrtc.so.13: cannot open shared object file")

    monkeypatch.setattr("cuda.bindings.nvrtc.nvrtcVersion", missing)
    with pytest.raises(KernelError, match=r"libnvrtc\.so\.13.*pip install cuda-bindings"):
        nvrtc.version()
