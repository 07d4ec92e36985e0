"""NativeLibrary: built once, cached, rebuilt when damaged, absent with a reason."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from qbench_suite import NativeLibrary
from qbench_suite.native import cache as files
from qbench_suite.native import library as module
from qbench_suite.native.compiler import _compiler, find_compiler

ROOT = Path(__file__).parents[2]
SOURCE = """
#ifdef _OPENMP
#include <omp.h>
#endif
#define PUBLIC extern "C" __attribute__((visibility("default")))
PUBLIC int answer() { return 42; }
PUBLIC int wide() {
#ifdef __AVX2__
  return 1;
#else
  return 0;
#endif
}
PUBLIC int threads() {
  int n = 1;
#ifdef _OPENMP
#pragma omp parallel
#pragma omp single
  n = omp_get_num_threads();
#endif
  return n;
}
"""

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler here")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of its own, and no memory of what was loaded before."""
    monkeypatch.setenv("QBENCH_CACHE", str(tmp_path / "a cache"))
    monkeypatch.delenv("QBENCH_NATIVE", raising=False)
    module._load.cache_clear()
    _compiler.cache_clear()
    yield tmp_path / "a cache" / "native"
    module._load.cache_clear()
    _compiler.cache_clear()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "with space" / "small.cpp"
    path.parent.mkdir()
    path.write_text(SOURCE, encoding="utf-8")
    return path


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def loaded(library: NativeLibrary) -> int:
    library_ = library.load()
    assert library_ is not None, library.reason
    answer: int = library_.answer()
    return answer


def child(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'plugins'}", **environment}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False
    )


@needs_compiler
def test_it_is_built_once_and_kept(source: Path, cache: Path) -> None:
    library = NativeLibrary(source)
    assert loaded(library) == 42
    assert library.reason == ""
    assert library.path is not None
    assert library.path.parent == cache
    written = library.path.stat().st_mtime_ns
    module._load.cache_clear()
    assert loaded(NativeLibrary(source)) == 42
    assert library.path.stat().st_mtime_ns == written
    assert not list(cache.glob("*.part"))


@needs_compiler
def test_another_source_or_instruction_set_is_another_library(source: Path) -> None:
    first = NativeLibrary(source).path
    portable = NativeLibrary(source, arch="x86-64").path if os.uname().machine == "x86_64" else None
    source.write_text(SOURCE.replace("42", "43"), encoding="utf-8")
    module._load.cache_clear()
    assert loaded(NativeLibrary(source)) == 43
    assert len({first, portable, NativeLibrary(source).path}) == 3


@needs_compiler
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="names an x86 instruction set")
def test_arch_chooses_the_instruction_set(source: Path) -> None:
    library = NativeLibrary(source, arch="x86-64").load()
    assert library is not None
    assert library.wide() == 0


@needs_compiler
@pytest.mark.parametrize("damage", ["half", "empty", "other", "no digest"])
def test_a_damaged_file_is_built_again(source: Path, damage: str) -> None:
    path = NativeLibrary(source).path
    assert path is not None
    data = path.read_bytes()
    # A new file, as the old one is mapped into this process.
    path.unlink()
    path.write_bytes(
        {"half": data[: len(data) // 2], "empty": b"", "other": b"\x7fELF" * 99}.get(damage, data)
    )
    if damage == "no digest":
        files._notes(path).unlink()
    done = child(
        f"from pathlib import Path; from qbench_suite import NativeLibrary;"
        f"print(NativeLibrary(Path({str(source)!r})).load().answer())"
    )
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    assert files.kept(path) is not None


@needs_compiler
def test_a_file_that_is_whole_and_does_not_load_is_built_elsewhere(
    source: Path, cache: Path
) -> None:
    compiler = find_compiler()
    assert compiler is not None
    target = cache / f"small-{module._key(NativeLibrary(source), compiler)}.so"
    cache.mkdir(parents=True)
    target.write_bytes(b"of another machine")
    files._notes(target).write_text(json.dumps({"sha256": files._digest(target)}), encoding="utf-8")
    library = NativeLibrary(source)
    assert loaded(library) == 42
    assert library.path is not None
    assert library.path.parent != cache


@needs_compiler
def test_a_cache_that_cannot_be_written_costs_a_build(
    source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file where the folder should be stops root too, whom permissions do not.
    cache.parent.write_text("no folder", encoding="utf-8")
    library = NativeLibrary(source)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert loaded(library) == 42
    assert library.path is not None
    assert not library.path.is_relative_to(cache.parent)


@needs_compiler
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_is_read(source: Path, cache: Path) -> None:
    path = NativeLibrary(source).path
    module._load.cache_clear()
    cache.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert NativeLibrary(source).path == path
    finally:
        cache.chmod(stat.S_IRWXU)


@needs_compiler
def test_a_whole_library_is_loaded_without_a_lock(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = NativeLibrary(source).path
    module._load.cache_clear()
    monkeypatch.setattr(files, "FileLock", None)
    assert NativeLibrary(source).path == path


@needs_compiler
def test_what_does_not_compile_is_a_reason_and_one_warning(source: Path, cache: Path) -> None:
    source.write_text("int main( {", encoding="utf-8")
    library = NativeLibrary(source)
    with pytest.warns(RuntimeWarning, match=r"small\.cpp runs as slower Python code") as caught:
        assert library.load() is None
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert library.load() is None
    assert "it does not compile" in library.reason
    assert "error" in library.reason
    assert library.path is None
    assert not list(cache.glob("*.part"))


def test_without_a_compiler_there_is_a_reason(
    source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.warns(RuntimeWarning, match="no C\\+\\+ compiler was found; install g\\+\\+"):
        assert NativeLibrary(source).load() is None


def test_a_compiler_that_is_not_there_is_named(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.warns(RuntimeWarning, match="CXX names 'no-such-compiler -O1'"):
        assert NativeLibrary(source).load() is None


@pytest.mark.skipif(shutil.which("true") is None, reason="no program that does nothing")
def test_a_compiler_that_makes_nothing_is_named(
    source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "true")
    library = NativeLibrary(source)
    with pytest.warns(RuntimeWarning, match="runs as slower Python code"):
        assert library.load() is None
    assert library.reason.endswith("true: the compiler made nothing")
    assert not list(cache.glob("*.json"))


@pytest.mark.parametrize("off", ["0", "false", "No", "OFF"])
def test_native_code_can_be_switched_off(
    source: Path, monkeypatch: pytest.MonkeyPatch, off: str
) -> None:
    monkeypatch.setenv("QBENCH_NATIVE", off)
    library = NativeLibrary(source)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert library.load() is None
    assert library.reason == f"native code is switched off by QBENCH_NATIVE={off}"


@needs_compiler
@pytest.mark.parametrize("arguments", ["", " -DUNUSED=1 '-DNAME=a b'"], ids=["alone", "arguments"])
def test_cxx_may_hold_spaces_and_arguments(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    real = find_compiler()
    assert real is not None
    seen = tmp_path / "seen"
    folder = tmp_path / ("no-space" if arguments else "a space")
    folder.mkdir()
    wrapper = script(folder / "cxx", f'echo "$@" >> "{seen}"\nexec "{real.command[0]}" "$@"')
    monkeypatch.setenv("CXX", f"{wrapper}{arguments}")
    assert loaded(NativeLibrary(source)) == 42
    assert ("-DNAME=a b" in seen.read_text(encoding="utf-8")) == bool(arguments)


@needs_compiler
@pytest.mark.parametrize("refused", ["-march", "-fopenmp"])
def test_a_compiler_may_refuse_a_flag(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    real = find_compiler()
    assert real is not None
    cpp = shutil.which(real.command[0])
    # -mcpu is a word of ARM compilers: this one takes it for nothing.
    wrapper = script(
        tmp_path / "cxx",
        f'for a in "$@"; do shift; case "$a" in {refused}*) exit 1;; -mcpu*) ;; '
        f'*) set -- "$@" "$a";; esac; done\nexec "{cpp}" "$@"',
    )
    monkeypatch.setenv("CXX", str(wrapper))
    assert loaded(NativeLibrary(source)) == 42


@needs_compiler
def test_processes_that_build_at_once_build_one_library(source: Path, cache: Path) -> None:
    code = (
        f"from pathlib import Path; from qbench_suite import NativeLibrary;"
        f"assert NativeLibrary(Path({str(source)!r})).load().answer() == 42"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    children = [
        subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    said = [process.communicate()[1] for process in children]
    assert [process.returncode for process in children] == [0, 0, 0], said
    assert len(list(cache.glob("*.so"))) == 1
    assert not list(cache.glob("*.part"))


@needs_compiler
def test_threads_are_those_of_torch(source: Path) -> None:
    code = f"""
from pathlib import Path
from qbench_suite import NativeLibrary
library = NativeLibrary(Path({str(source)!r})).load()
import torch
for wanted in (1, 2, 1, 2):
    torch.set_num_threads(wanted)
    assert library.threads() == wanted, (wanted, library.threads())
"""
    done = child(code)
    assert done.returncode == 0, done.stderr


@needs_compiler
def test_temporary_folders_go_with_the_process(source: Path, cache: Path) -> None:
    cache.parent.write_text("no folder", encoding="utf-8")
    done = child(
        f"from pathlib import Path; from qbench_suite import NativeLibrary;"
        f"print(NativeLibrary(Path({str(source)!r})).path)"
    )
    path = Path(done.stdout.strip())
    assert path.suffix == ".so", done.stderr
    assert not path.parent.exists()
