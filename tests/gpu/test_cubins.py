"""Compiled kernels on disk: kept, whole or not at all, and shared between processes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qbench_suite.errors import KernelError
from qbench_suite.gpu import SM_80, SM_90, CudaFunction, CudaSource, cubins, nvrtc, toolkit

pytest.importorskip("cuda.bindings.nvrtc", reason="cuda.bindings is not installed")
pytestmark = pytest.mark.skipif(toolkit.headers() is None, reason="none of CUDA's headers")

ROOT = Path(__file__).parents[2]
TEXT = "template <int N> __global__ void fill(int* p) { p[threadIdx.x] = N; }"


@pytest.fixture
def function(tmp_path: Path, forgetful: Path) -> CudaFunction:
    (tmp_path / "fill.cu").write_text(TEXT, encoding="utf-8")
    return CudaSource(tmp_path / "fill.cu").function("fill<3>")


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is compiled from now on, target by target."""
    seen: list[str] = []
    compile_function = nvrtc.compile_function

    def watched(function: CudaFunction, target: nvrtc.Target) -> nvrtc.Binary:
        seen.append(target.option)
        return compile_function(function, target)

    monkeypatch.setattr(nvrtc, "compile_function", watched)
    return seen


def again(function: CudaFunction) -> nvrtc.Binary:
    """What a process that starts now has of it."""
    cubins.compiled.cache_clear()
    return cubins.compiled(function, SM_90)


def cubin(folder: Path) -> Path:
    (path,) = folder.glob("*.cubin")
    return path


def test_a_kernel_is_compiled_once_and_kept(
    function: CudaFunction, forgetful: Path, built: list[str]
) -> None:
    first = cubins.compiled(function, SM_90)
    assert again(function) == first
    assert built == ["sm_90a"]
    path = cubin(forgetful)
    assert path.name.startswith("fill_3-")
    assert path.read_bytes() == first.image
    notes = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert notes["name"] == first.name
    assert notes["target"] == "sm_90a"
    assert notes["expression"] == "fill<3>"
    assert not list(forgetful.glob("*.part"))


def test_architecture_expression_text_and_nvrtc_make_another_one(
    function: CudaFunction, forgetful: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    again(function)
    cubins.compiled(function, SM_80)
    again(function.source.function("fill<4>"))
    function.source.path.write_text(TEXT + "\n", encoding="utf-8")
    again(function)
    monkeypatch.setattr(nvrtc, "OPTIONS", (*nvrtc.OPTIONS, "--use_fast_math"))
    again(function)
    monkeypatch.setattr(nvrtc, "version", lambda: "99.9")
    again(function)
    assert len(built) == len(list(forgetful.glob("*.cubin"))) == 6


@pytest.mark.parametrize(
    "damage", ["half", "empty", "other", "no notes", "notes cut", "notes of another", "no name"]
)
def test_a_damaged_file_is_compiled_again(
    function: CudaFunction, forgetful: Path, built: list[str], damage: str
) -> None:
    first = cubins.compiled(function, SM_90)
    path = cubin(forgetful)
    notes = path.with_suffix(".json")
    if damage == "no notes":
        notes.unlink()
    elif damage == "notes cut":
        notes.write_text(notes.read_text()[:20])
    elif damage == "no name":
        notes.write_text(json.dumps({"sha256": json.loads(notes.read_text())["sha256"]}))
    elif damage == "notes of another":
        notes.write_text('["sha256"]')
    else:
        whole = path.read_bytes()
        path.write_bytes(
            {"half": whole[: len(whole) // 2], "empty": b"", "other": b"\x7fELF"}[damage]
        )
    assert again(function) == first
    assert built == ["sm_90a"] * 2
    assert path.read_bytes() == first.image
    assert again(function) == first
    assert len(built) == 2


def test_a_cache_that_cannot_be_written_costs_a_compilation(
    function: CudaFunction, forgetful: Path, built: list[str]
) -> None:
    # A file where the folder should be stops root too, whom permissions do not.
    forgetful.parent.write_text("no folder", encoding="utf-8")
    first = cubins.compiled(function, SM_90)
    assert first.image.startswith(b"\x7fELF")
    assert again(function) == first
    assert built == ["sm_90a"], "the folder of this process keeps it"


def test_nowhere_to_write_at_all_costs_no_more(
    function: CudaFunction, forgetful: Path, monkeypatch: pytest.MonkeyPatch, built: list[str]
) -> None:
    forgetful.parent.write_text("no folder", encoding="utf-8")
    monkeypatch.setattr(cubins, "cache_folders", lambda kind: iter([forgetful]))
    assert cubins.compiled(function, SM_90).name
    assert built == ["sm_90a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_is_read(
    function: CudaFunction, forgetful: Path, built: list[str]
) -> None:
    cubins.compiled(function, SM_90)
    forgetful.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        again(function)
    finally:
        forgetful.chmod(stat.S_IRWXU)
    assert built == ["sm_90a"]


def test_what_does_not_compile_leaves_nothing_behind(
    function: CudaFunction, forgetful: Path
) -> None:
    with pytest.raises(KernelError, match="does not compile"):
        cubins.compiled(function.source.function("fill<x>"), SM_90)
    assert not [path for path in forgetful.iterdir() if path.suffix != ".lock"]


def test_processes_that_compile_at_once_keep_one(
    function: CudaFunction, forgetful: Path, built: list[str]
) -> None:
    code = (
        "from pathlib import Path; from qbench_suite.gpu import SM_90, CudaSource, cubins;"
        f"function = CudaSource(Path({str(function.source.path)!r})).function('fill<3>');"
        "print(cubins.compiled(function, SM_90).name)"
    )
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    said = [process.communicate() for process in children]
    assert [process.returncode for process in children] == [0, 0, 0], said
    assert {out.strip() for out, _ in said} == {again(function).name}
    assert built == []
    assert len(list(forgetful.glob("*.cubin"))) == 1
    assert not list(forgetful.glob("*.part"))
