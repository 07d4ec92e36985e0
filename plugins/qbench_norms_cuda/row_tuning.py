"""Overrides of the ladder of row_plan.py, from a JSON file: for what was measured to be better.

::

    {"sm_90": [{"columns": [2049, 8192], "bytes": 2, "items": 2, "threads": 512},
               {"columns": [16385, 65536], "bytes": 4, "slice_bytes": 32768, "cluster": 4}]}
"""

from __future__ import annotations

import functools
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench_suite import KernelError

if TYPE_CHECKING:
    from qbench_suite import Architecture

#: The environment variable that names the file.
VARIABLE = "QBENCH_NORMS_TUNING"
#: What each field may be: numbers that any row is held rightly with, in registers that suffice.
_FIELDS: dict[str, range | tuple[int, ...]] = {
    "threads": range(32, 513, 32),
    "slice_bytes": range(1024, (1 << 20) + 1),
    "cluster": (1, 2, 4, 8),
}
#: Likewise of the vectors that a thread holds, by the bytes of an element.
_ITEMS = {2: range(1, 5), 4: range(1, 9)}


@dataclass(frozen=True)
class Override:
    """Fields of a rung that are others for rows of ``first`` to ``last`` elements of ``element_bytes``."""

    first: int
    last: int
    element_bytes: int
    fields: dict[str, int]


def override_of(n: int, element_bytes: int, architecture: Architecture) -> dict[str, int]:
    """What the file says of rows of ``n`` elements; empty without a file or an entry.

    The first entry that fits counts. The file is read once in a process.

    Raises:
        KernelError: the file cannot be read, or an entry of it makes no sense.
    """
    path = os.environ.get(VARIABLE)
    for override in overrides(path).get(str(architecture), ()) if path else ():
        if override.element_bytes == element_bytes and override.first <= n <= override.last:
            return override.fields
    return {}


@functools.cache
def overrides(path: str) -> dict[str, tuple[Override, ...]]:
    """The entries of a file, by architecture.

    Raises:
        KernelError: the file cannot be read, or an entry of it makes no sense.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KernelError(
            f"{VARIABLE} names a JSON file of overrides; {path} cannot be read: {error}; "
            "mend it, or unset the variable."
        ) from error
    if not isinstance(found, dict):
        raise _refused(path, "the file", found, 'an object such as {"sm_90": [...]}')
    for name, entries in found.items():
        if not re.fullmatch(r"sm_\d{2,3}", name):
            raise _refused(path, "an architecture", name, 'a name such as "sm_90"')
        if not isinstance(entries, list):
            raise _refused(path, name, entries, "a list of entries")
    return {
        name: tuple(_override(path, f"{name}[{i}]", entry) for i, entry in enumerate(entries))
        for name, entries in found.items()
    }


def _override(path: str, place: str, entry: Any) -> Override:
    if not isinstance(entry, dict):
        raise _refused(path, place, entry, "an object")
    told = {name: value for name, value in entry.items() if name not in ("columns", "bytes")}
    if len(entry) != len(told) + 2 or not told or not told.keys() <= {"items", *_FIELDS}:
        wanted = f"columns, bytes, and at least one of items, {', '.join(_FIELDS)}"
        raise _refused(path, place, entry, wanted)
    columns, size = entry["columns"], entry["bytes"]
    numbers = isinstance(columns, list) and len(columns) == 2 and all(map(_whole, columns))
    if not numbers or not 1 <= columns[0] <= columns[1]:
        raise _refused(path, f"{place}.columns", columns, "[shortest, longest] row, from 1 on")
    if not _whole(size) or size not in _ITEMS:
        raise _refused(path, f"{place}.bytes", size, "2 or 4, the bytes of an element")
    for name, value in told.items():
        allowed = _ITEMS[size] if name == "items" else _FIELDS[name]
        if not _whole(value) or value not in allowed:
            raise _refused(path, f"{place}.{name}", value, _said(allowed))
    return Override(columns[0], columns[1], size, told)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _said(allowed: range | tuple[int, ...]) -> str:
    if isinstance(allowed, tuple):
        return "one of " + ", ".join(map(str, allowed))
    steps = f", a multiple of {allowed.step}" if allowed.step > 1 else ""
    return f"{allowed[0]} to {allowed[-1]}{steps}"


def _refused(path: str, place: str, received: object, wanted: str) -> KernelError:
    return KernelError(
        f"{VARIABLE}: {place} of {path} must be {wanted}; received {received!r}; "
        "mend the entry, or unset the variable."
    )
