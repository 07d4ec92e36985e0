"""Commands in a text, to be copied into a shell."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from qbench_suite.report import notation
from qbench_suite.report.text_table import WIDTH

#: What ends a line that a shell joins with the next.
_GOES_ON = " \\"


def command_lines(text: str) -> Iterator[str]:
    """The command ``text`` in lines that a shell takes for one; a word stays whole, however long."""
    lines = ["measure it again:  pytest"]
    for word in _words(text)[1:]:
        if len(lines[-1]) + len(word) + len(" ") + len(_GOES_ON) > WIDTH:
            lines[-1] += _GOES_ON
            lines.append("   ")
        lines[-1] += f" {word if word.isprintable() else notation.printable(word)}"
    yield from lines


def _words(text: str) -> list[str]:
    """The words of a command, each quoted as it was."""
    try:
        return [shlex.quote(word) for word in shlex.split(text)]
    except ValueError:  # a journal may hold what no shell reads
        return text.split()
