"""Gates: the error that a case may have, from a table."""

from __future__ import annotations

import csv
import fnmatch
import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from qbench_suite.errors import ResultsError

_COLUMNS = ("table", "format", "mode", "what", "min_sqnr_db")


@dataclass(frozen=True)
class Gate:
    """A least SQNR for the cases that four patterns select."""

    table: str
    format: str
    mode: str
    #: Layer type of a layer case, distribution of a format case.
    what: str
    min_sqnr_db: float


class Gates:
    """A table of gates; the first that matches a case holds."""

    def __init__(self, gates: list[Gate]) -> None:
        self._gates = gates

    @classmethod
    def read(cls, path: Path | None = None) -> Gates:
        """Gates from a CSV file; without ``path`` the suite's own.

        Columns ``table,format,mode,what,min_sqnr_db``, the first four glob patterns. Raises
        ``ResultsError`` for a file that cannot be read, naming the line.
        """
        source = path or resources.files("qbench_suite.results") / "gates.csv"
        try:
            lines = source.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ResultsError(
                f"--qbench-gates takes a readable CSV file; {source}: {error}. Check the path."
            ) from error
        rows = csv.DictReader(line for line in lines if not line.startswith("#"))
        if tuple(rows.fieldnames or ()) != _COLUMNS:
            raise ResultsError(
                f"A table of gates begins with {','.join(_COLUMNS)}; {source} begins with "
                f"{','.join(rows.fieldnames or ())!r}. Add that line."
            )
        return cls([_gate(row, source) for row in rows])

    def min_sqnr_db(self, table: str, format: str, mode: str, what: str) -> float | None:
        """The least SQNR for a case; None where no gate matches."""
        for gate in self._gates:
            pairs = (
                (table, gate.table),
                (format, gate.format),
                (mode, gate.mode),
                (what, gate.what),
            )
            if all(fnmatch.fnmatchcase(value, pattern) for value, pattern in pairs):
                return gate.min_sqnr_db
        return None


def _number(text: str) -> float:
    value = float(text)
    if math.isnan(value):  # no case could ever fail it
        raise ValueError(text)
    return value


def _gate(row: dict[str, str], source: object) -> Gate:
    try:
        table, format, mode, what, least = (row[name].strip() for name in _COLUMNS)
        return Gate(table, format, mode, what, _number(least))
    except (KeyError, AttributeError, TypeError, ValueError):
        raise ResultsError(
            f"A gate has the columns {','.join(_COLUMNS)}, the last a number; got "
            f"{','.join(str(v) for v in row.values())!r} in {source}. Correct that line."
        ) from None
