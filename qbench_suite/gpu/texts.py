"""The text of a source file and of all that it includes with quotes."""

from __future__ import annotations

import re
from pathlib import Path

#: Headers for kernels, found by every source as ``#include "qbench/..."``.
INCLUDE = Path(__file__).parent / "include"

#: A line that includes a file with quotes.
QUOTED = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', re.MULTILINE)


def include_folders(source: Path) -> tuple[Path, ...]:
    """Where quoted includes of ``source`` are looked up, in this order."""
    return (source.parent, INCLUDE)


def texts(source: Path) -> dict[Path, str]:
    """File → text, of ``source`` and what it includes with quotes, and so on; read anew each time.

    Branches of the preprocessor are not followed: a file that some branch includes counts. One that is
    in none of the folders is left to the compiler, which may find it elsewhere.

    Raises:
        OSError: ``source`` cannot be read.
    """
    found: dict[Path, str] = {}
    waiting = [source]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = path.read_text(encoding="utf-8")
        folders = (path.parent, *include_folders(source))
        for name in QUOTED.findall(found[path]):
            here = next((f / name for f in folders if (f / name).is_file()), None)
            if here is not None:
                waiting.append(here.resolve())
    return found
