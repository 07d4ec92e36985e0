"""NativeLibrary: one C++ file as a shared library, built on first use and cached."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from qbench_suite.native.cache import build_once, cache_folders
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
    for folder in cache_folders("native") if compiler else ():
        assert compiler is not None
        try:
            path = _built(library, compiler, folder)
            return ctypes.CDLL(str(path)), "", path
        except _BuildError as error:
            reason = str(error)
            break
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


class _BuildError(Exception):
    """The compiler refused; the message says why."""


def _built(library: NativeLibrary, compiler: Compiler, folder: Path) -> Path:
    """The library's file in ``folder``, built where it is not there yet."""
    target = folder / f"{library.source.stem}-{_key(library, compiler)}.so"

    def build(part: Path) -> dict[str, str]:
        if reason := compiler.build(library.source, part, _FLAGS, library.arch):
            raise _BuildError(f"it does not compile: {reason}")
        return {"compiler": compiler.version}

    build_once(target, build)
    return target


def _key(library: NativeLibrary, compiler: Compiler) -> str:
    source = library.source.read_text(encoding="utf-8")
    parts = (source, *_FLAGS, library.arch, *compiler.command, compiler.version, processor())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
