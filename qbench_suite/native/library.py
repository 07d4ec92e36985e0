"""NativeLibrary: one C++ file as a shared library, built on first use and cached."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from qbench_suite.native.compiler import Compiler, find_compiler, processor

#: Contraction would make the rounding of float code depend on the compiler.
_FLAGS = ("-O3", "-std=c++17", "-ffp-contract=off", "-fvisibility=hidden")
#: Values of ``QBENCH_NATIVE`` that switch native code off.
_OFF = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True)
class NativeLibrary:
    """The shared library of one C++ source without other headers than the compiler's own.

    It is built when it is first loaded, in seconds, for ``arch`` (``-march``), and kept in the cache
    folder under a key of source, flags, compiler and processor. Threads are OpenMP's: those of torch,
    where torch brings a runtime, so that ``torch.set_num_threads`` holds. Without a compiler, and with
    ``QBENCH_NATIVE=0`` (or false, no, off), there is no library, and ``reason`` says why.
    """

    source: Path
    #: Instruction set to build for; another one than ``native`` tests the portable paths.
    arch: str = "native"

    def load(self) -> ctypes.CDLL | None:
        """The library; None where it cannot be built or loaded, with a warning the first time."""
        return self._loaded[0]

    @property
    def reason(self) -> str:
        """Why there is no library; empty where there is one."""
        return self._loaded[1]

    @property
    def path(self) -> Path | None:
        """The file that was loaded, for a look at its instructions; None where there is none."""
        return self._loaded[2]

    @property
    def _loaded(self) -> tuple[ctypes.CDLL | None, str, Path | None]:
        return _load(self, os.environ.get("QBENCH_NATIVE", "1"), find_compiler())


@functools.cache
def _load(
    library: NativeLibrary, wanted: str, compiler: Compiler | None
) -> tuple[ctypes.CDLL | None, str, Path | None]:
    if wanted.strip().lower() in _OFF:
        return None, f"native code is switched off by QBENCH_NATIVE={wanted}", None
    reason = _no_compiler()
    # A library is given the OpenMP runtime that is loaded already: it has to be torch's.
    importlib.import_module("torch")
    for folder in _folders() if compiler else ():
        assert compiler is not None
        try:
            path, reason = _built(library, compiler, folder)
            if path is None:
                break
            return ctypes.CDLL(str(path)), "", path
        except (OSError, NotImplementedError) as error:  # the latter: a filesystem without locks
            reason = f"it cannot be kept in {folder}, or loaded from there: {error}"
    warnings.warn(
        f"{library.source.name} runs as slower Python code: {reason}.",
        RuntimeWarning,
        stacklevel=4,
    )
    return None, reason, None


def _no_compiler() -> str:
    if named := os.environ.get("CXX"):
        return f"CXX names {named!r}, which does not run; name a C++ compiler, or unset CXX"
    return "no C++ compiler was found; install g++, or name one in CXX"


def cache_folder() -> Path:
    """Where built libraries are kept: ``QBENCH_CACHE``, else ``qbench_suite`` in the user's cache."""
    if chosen := os.environ.get("QBENCH_CACHE"):
        return Path(chosen) / "native"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "qbench_suite" / "native"


#: Folders of this process alone; they go when it ends.
_temporary: list[tempfile.TemporaryDirectory[str]] = []


def _folders() -> Iterator[Path]:
    """Where a library may be kept; a cache that cannot be written or run from costs only seconds."""
    yield cache_folder()
    with contextlib.suppress(OSError):  # nowhere to write at all: what the cache said stands
        _temporary.append(tempfile.TemporaryDirectory(prefix="qbench-native-"))
        yield Path(_temporary[-1].name)


def _built(library: NativeLibrary, compiler: Compiler, folder: Path) -> tuple[Path | None, str]:
    """The library's file in ``folder``, built where it is not there yet, else None and why."""
    target = folder / f"{library.source.stem}-{_key(library, compiler)}.so"
    if _intact(target):
        return target, ""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if _intact(target):
            return target, ""
        part = target.with_suffix(f".{os.getpid()}.part")
        try:
            if reason := compiler.build(library.source, part, _FLAGS, library.arch):
                return None, f"it does not compile: {reason}"
            _digest_file(target).write_text(_digest(part), encoding="ascii")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    return target, ""


def _key(library: NativeLibrary, compiler: Compiler) -> str:
    source = library.source.read_text(encoding="utf-8")
    parts = (source, *_FLAGS, library.arch, *compiler.command, compiler.version, processor())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _intact(target: Path) -> bool:
    """Whether the library is there, whole: loading a truncated one would end the process."""
    try:
        return _digest_file(target).read_text(encoding="ascii") == _digest(target)
    except (OSError, UnicodeDecodeError):
        return False


def _digest_file(target: Path) -> Path:
    return target.with_suffix(".sha256")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
