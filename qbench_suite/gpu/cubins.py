"""Compiled kernels, kept on disk from one process to the next."""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from qbench_suite.gpu import nvrtc
from qbench_suite.gpu.architectures import Architecture
from qbench_suite.native.cache import build_once, cache_folders

if TYPE_CHECKING:
    from qbench_suite.gpu.source import CudaFunction


@functools.cache
def compiled(function: CudaFunction, architecture: Architecture) -> nvrtc.Binary:
    """The kernel for ``architecture``: from the cache where it is there and whole, else compiled now.

    A cache that cannot be written costs the time to compile, in each process anew.

    Raises:
        DeviceError: the architecture is too old.
        KernelError: the source cannot be read, does not compile, or NVRTC cannot be loaded.
    """
    target = nvrtc.target_of(architecture)
    name = f"{_stem(function)}-{_key(function, target)}.{'ptx' if target.ptx else 'cubin'}"
    for folder in cache_folders("kernels"):
        try:
            return _kept(folder / name, function, target)
        except (OSError, NotImplementedError):  # the latter: a filesystem without locks
            continue
    return nvrtc.compile_function(function, target)


def _kept(path: Path, function: CudaFunction, target: nvrtc.Target) -> nvrtc.Binary:
    def build(part: Path) -> dict[str, str]:
        binary = nvrtc.compile_function(function, target)
        part.write_bytes(binary.image)
        return {
            "name": binary.name,
            "account": binary.account,
            "expression": function.expression,
            "target": target.option,
            "nvrtc": nvrtc.version(),
        }

    facts = build_once(path, build)
    if not {"name", "account"} <= facts.keys():  # somebody else's notes
        path.with_suffix(".json").unlink(missing_ok=True)
        facts = build_once(path, build)
    return nvrtc.Binary(path.read_bytes(), facts["name"], facts["account"])


def _stem(function: CudaFunction) -> str:
    """What a person finds the file by; the key tells apart what is equal here."""
    return re.sub(r"\W+", "_", function.expression).strip("_")[:60]


def _key(function: CudaFunction, target: nvrtc.Target) -> str:
    parts = (
        function.source.digest,
        function.expression,
        target.option,
        *nvrtc.OPTIONS,
        nvrtc.version(),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
