"""Writing: a report is there whole or not at all, in a folder whose name any file system takes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from qbench_suite.errors import ResultsError

_LONGEST = 80
#: Names that mean something else in a run's folder, or on some system.
_TAKEN = re.compile(
    r"\.*|unfinished|run\.lock|.*\.(csv|html|jsonl?|parquet|lock|tmp)|(con|prn|aux|nul|com\d|lpt\d)(\..*)?",
    re.IGNORECASE,
)


def write(path: Path, text: str) -> Path:
    """Write ``text`` in the place of ``path``, making its folder; raises ``ResultsError``."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A lone surrogate, as a name read from a file system may hold, has no UTF-8.
        unfinished.write_bytes(text.encode("utf-8", "backslashreplace"))
        unfinished.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise ResultsError(
            f"The reports of a run are written beside its journals; {path}: "
            f"{error.strerror or error}. Free space or make the folder writable, then: qbench report "
            f"RUN. The journals are whole."
        ) from error
    return path


def folder_names(names: Iterable[str]) -> dict[str, str]:
    """A folder name for each of ``names``: letters, digits and ``_ . + -``, one its own each.

    A policy file goes by its name without folder and ending. A name that had to be changed in such
    a way that it is taken, too long or reserved ends in eight digits of its SHA-256.
    """
    folders: dict[str, str] = {}
    for name in sorted(set(names)):
        stem = re.sub(r"(?:.*/)?([^/]+)\.ya?ml$", r"\1", name)
        safe = re.sub(r"[^A-Za-z0-9_.+-]", ".", stem).strip(".") or "."
        taken = {folder.lower() for folder in folders.values()}
        if len(safe) > _LONGEST or _TAKEN.fullmatch(safe) or safe.lower() in taken:
            digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:8]
            safe = f"{safe[:_LONGEST].strip('.')}-{digest}"
        folders[name] = safe
    return folders
