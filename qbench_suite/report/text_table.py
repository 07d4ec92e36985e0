"""Aligned tables and wrapped pairs in plain text, at most 120 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qbench_suite.report import notation
from qbench_suite.report.run import Record

WIDTH = 120
_LABEL = 20
_GAP = "  "
#: A column of text is not made narrower than this.
_LEAST = 12


@dataclass(frozen=True)
class Column:
    """A column: its heading, what it shows of a record, and whether it is text, flush left."""

    heading: str
    cell: Callable[[Record], str]
    left: bool = False


def fixed(heading: str, name: str, digits: int = 2) -> Column:
    """The column ``name`` with ``digits`` decimals."""
    return Column(heading, lambda row: notation.fixed(row[name], digits))


def significant(heading: str, name: str, digits: int = 3) -> Column:
    """The column ``name`` with ``digits`` significant digits."""
    return Column(heading, lambda row: notation.significant(row[name], digits))


def words(heading: str, name: str) -> Column:
    """The column ``name`` as text, flush left."""
    return Column(heading, lambda row: notation.printable(row[name] or ""), True)


def table(columns: Sequence[Column], rows: Sequence[Record]) -> list[str]:
    """Lines of the table: headings, a rule, and a line a row.

    Where it is too wide, the widest columns of text give way: what does not fit loses its middle.
    """
    headings = [c.heading for c in columns]
    cells = [headings, *([c.cell(row) or "-" for c in columns] for row in rows)]
    widths = [max(map(notation.columns, texts)) for texts in zip(*cells, strict=True)]
    texts = [number for number, column in enumerate(columns) if column.left]
    while texts and sum(widths) + len(_GAP) * (len(widths) - 1) > WIDTH:
        widest = max(texts, key=lambda number: widths[number])
        if widths[widest] <= _LEAST:
            break
        widths[widest] -= 1
    cells.insert(1, ["-" * width for width in widths])
    return [_line(line, widths, columns) for line in cells]


def pair(label: str, value: Any) -> list[str]:
    """``label  value``, wrapped under the value; nothing where the value is empty."""
    if value in (None, ""):
        return []
    text = notation.printable(value)
    lines = wrap(text, WIDTH - _LABEL)
    return [(label if not i else "").ljust(_LABEL) + line for i, line in enumerate(lines)]


def heading(title: str) -> list[str]:
    """An empty line, the title, and a rule under it."""
    return ["", title, "=" * len(title)]


def wrap(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` columns; wide characters count as two."""
    wide = notation.columns(text) > len(text)
    return textwrap.wrap(text, width // 2 if wide else width, break_on_hyphens=False) or [""]


def _line(cells: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> str:
    padded = []
    for cell, width, column in zip(cells, widths, columns, strict=True):
        text = _cut(cell, width)
        space = " " * (width - notation.columns(text))
        padded.append(text + space if column.left else space + text)
    return _GAP.join(padded).rstrip()


def _cut(text: str, longest: int) -> str:
    if notation.columns(text) <= longest:
        return text
    if notation.columns(text) > len(text):
        longest //= 2
    head = (longest - 3) // 3
    return f"{text[:head]}...{text[len(text) - (longest - 3 - head) :]}"
