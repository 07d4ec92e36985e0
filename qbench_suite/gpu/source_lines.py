"""Places in compiled kernels as lines of their source."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from qbench_suite.gpu.texts import INCLUDE

#: How the emulator writes an offset in the library of a kernel.
_PLACE = re.compile(r"\{(0x[0-9a-f]+)\}")


def with_lines(message: str, library: str) -> str:
    """``message`` with ``row.cu:17`` where it has ``{0x1f}``, an offset in ``library``.

    The line is the innermost outside of the headers of the suite and of CUDA. Without addr2line (of
    binutils), or debugging information, the offset stays.
    """
    return _PLACE.sub(lambda found: _line(found[1], library) or found[0], message)


def _line(offset: str, library: str) -> str:
    tool = shutil.which("addr2line")
    if tool is None:
        return ""
    done = subprocess.run(  # noqa: S603 - no shell, and arguments of our own
        [tool, "-i", "-e", library, offset], capture_output=True, text=True, check=False
    )
    places = [line.split(" (")[0].rsplit(":", 1) for line in done.stdout.splitlines()]
    known = [
        (Path(place[0]), place[1]) for place in places if place[-1].isdecimal() and place[0] != "??"
    ]
    outside = [place for place in known if not _of_a_header(place[0])]
    return next((f"{path.name}:{line}" for path, line in (*outside, *known)), "")


def _of_a_header(path: Path) -> bool:
    return INCLUDE in path.resolve().parents or path.name.startswith("cuda_")
