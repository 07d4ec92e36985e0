"""Where NVIDIA's headers and tools are: in Python packages that come with torch, or a toolkit."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

#: A header every kernel on 16-bit floats needs.
_WANTED = "cuda_fp16.h"
#: Where a toolkit is installed, unless a variable names another place.
_TOOLKIT = Path("/usr/local/cuda")


def _packages(name: str) -> list[Path]:
    """Folders of a package, which is not imported."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]


def _toolkits() -> Iterator[Path]:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if named := os.environ.get(variable):
            yield Path(named)
    yield _TOOLKIT


@functools.cache
def headers() -> Path | None:
    """The folder of CUDA's headers: of the package torch requires, else of a toolkit; None without.

    The packages come first, as NVRTC does: headers of another version may not fit it.
    """
    candidates: list[Path] = []
    for folder in _packages("nvidia"):
        candidates += sorted(folder.glob("cu[0-9]*/include"), reverse=True)
        candidates.append(folder / "cuda_runtime" / "include")
    candidates += [toolkit / "include" for toolkit in _toolkits()]
    return next((folder for folder in candidates if (folder / _WANTED).is_file()), None)


@functools.cache
def tool(name: str) -> Path | None:
    """A program of the toolkit (``cuobjdump``, ``nvdisasm``): on the path, else the one triton brings."""
    if found := shutil.which(name):
        return Path(found)
    folders = [toolkit / "bin" for toolkit in _toolkits()]
    folders += [folder / "backends" / "nvidia" / "bin" for folder in _packages("triton")]
    return next((folder / name for folder in folders if os.access(folder / name, os.X_OK)), None)
