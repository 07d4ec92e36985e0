"""Sortable, filterable tables of the page: what the script reads, as JSON that HTML cannot misread."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qbench_suite.report.run import Record

_DIGITS = 6


@dataclass(frozen=True)
class Column:
    """A column of a table on the page."""

    name: str
    label: str
    unit: str = ""
    #: text, number, state (a word with a colour) or code.
    kind: str = "number"
    #: Decimals that a number is shown with; None for up to four significant digits.
    digits: int | None = 2
    #: The value, where it is not the record's own of this name.
    value: Callable[[Record], Any] | None = None
    #: Small print beside the value; that of a text is shown on narrow screens only.
    note: Callable[[Record], str] | None = None
    #: On narrow screens it is among the details of a row only.
    wide: bool = False


@dataclass(frozen=True)
class DataTable:
    """A table on the page: its id, its caption, and its JSON."""

    id: str
    caption: str
    json: str
    rows: int


def text(name: str, label: str, *, wide: bool = False) -> Column:
    """A column of text; ``wide`` as in ``Column``."""
    return Column(name, label, kind="text", wide=wide)


def datatable(
    id: str,
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Record],
    *,
    details: Callable[[Record], dict[str, Any]] | None = None,
) -> DataTable:
    """The table ``id`` of ``rows``; columns without any value are left out.

    ``details``: what a row shows when it is opened, by label; empty values are left out, that of
    ``command`` can be copied, that of ``report`` is a link.
    """
    cells = {c.name: [_cell(c, row) for row in rows] for c in columns}
    shown = [c for c in columns if any(v not in (None, "") for v in cells[c.name])]
    content: dict[str, Any] = {
        "columns": [
            {"label": c.label, "unit": c.unit, "kind": c.kind, "digits": c.digits, "wide": c.wide}
            for c in shown
        ],
        "rows": [list(row) for row in zip(*(cells[c.name] for c in shown), strict=True)],
    }
    if any(c.note for c in shown):
        content["notes"] = [[c.note(row) if c.note else "" for c in shown] for row in rows]
    if details:
        content["details"] = [_filled(details(row)) for row in rows]
    return DataTable(id, caption, _json(content), len(rows))


def _filled(details: dict[str, Any]) -> list[list[str]]:
    return [[label, str(value)] for label, value in details.items() if value not in (None, "")]


def _cell(column: Column, row: Record) -> Any:
    value = column.value(row) if column.value else row.get(column.name)
    if isinstance(value, float):
        return _number(value)
    return value if value is None or isinstance(value, int) else str(value)


def _number(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else str(value)


def _json(content: dict[str, Any]) -> str:
    """JSON without ``<``, ``>`` and ``&``, so that no text in it ends the script or starts a comment."""
    plain = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    return plain
