"""The C++ library of the operators: where its source is, and what was built of it."""

from __future__ import annotations

import functools
from pathlib import Path

from qbench_fqvit.ops.kernels import Kernels
from qbench_suite import NativeLibrary

SOURCE = Path(__file__).parents[1] / "csrc" / "integer_ops.cpp"


def library(arch: str = "native") -> NativeLibrary:
    """The C++ library, for this processor or for another instruction set."""
    return NativeLibrary(SOURCE, arch)


@functools.cache
def kernels(arch: str = "native") -> Kernels | None:
    """The operators of ``library(arch)``, built on first use; None where it cannot be."""
    loaded = library(arch).load()
    return None if loaded is None else Kernels(loaded)


def libraries() -> tuple[Path, ...]:
    """The compiled libraries that the operators run in; none without a compiler."""
    path = library().path
    return () if path is None else (path,)
