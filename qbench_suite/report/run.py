"""A run as its reports read it: tables as plain records, and the facts its processes noted."""

from __future__ import annotations

import functools
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench_suite.report import notation
from qbench_suite.report.naming import short_names
from qbench_suite.results import JournalContents, read_journals, tables_of

if TYPE_CHECKING:
    import pandas as pd

#: A row of a table by column; None where a cell is empty or NaN.
Record = dict[str, Any]

#: The test that measures a case, by table.
_TESTS = {
    "models": "cases/test_models.py::test_model",
    "layers": "cases/test_layers.py::test_layer",
    "formats": "cases/test_formats.py::test_format",
    "quantizers": "cases/test_quantizers.py::test_quantizer",
    "linears": "cases/test_linear.py::test_linear",
    "integers": "cases/test_integer_vit.py::test_integer_vit",
    "norms": "cases/test_norms.py::test_norm",
}


@dataclass(frozen=True)
class Run:
    """The run in ``folder``: what its journals hold."""

    folder: Path
    contents: JournalContents

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run in ``folder``, finished or not; raises ``ResultsError`` where there is none."""
        return cls(folder, read_journals(folder))

    @property
    def name(self) -> str:
        """The name of the run: that of its folder."""
        return self.folder.resolve().name

    @functools.cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables that have rows, by name; ``model`` in short, and whole in ``full_model``."""
        tables = tables_of(self.contents)
        named = [table for table in tables.values() if "model" in table]
        names = short_names(sorted({name for table in named for name in table["model"]}))
        for table in named:
            table["full_model"] = table["model"]
            table["model"] = table["model"].map(names)
        return tables

    @functools.cached_property
    def models(self) -> list[Record]:
        """Rows of whole models, sorted by model and policy."""
        rows = records(self.tables.get("models"))
        return sorted(rows, key=lambda row: (row["model"], row["policy"]))

    @functools.cached_property
    def layers_of(self) -> dict[str, list[Record]]:
        """Layers of a converted model in the order in which they run, by case."""
        return _by_case(sorted(records(self.tables.get("model_layers")), key=_order))

    @functools.cached_property
    def violations_of(self) -> dict[str, list[Record]]:
        """Values off the grid, by case."""
        return _by_case(records(self.tables.get("violations")))

    @functools.cached_property
    def facts(self) -> dict[str, str]:
        """What its processes noted of themselves, by name; differing values joined by ``; ``."""
        values: dict[str, list[str]] = {}
        for header in self.contents.headers:
            for name, value in header.items():
                text = _text(value)
                if name not in ("event", "run", "schema") and text:
                    values.setdefault(name, []).append(text)
        return {name: "; ".join(dict.fromkeys(texts)) for name, texts in values.items()}


def records(table: pd.DataFrame | None) -> list[Record]:
    """The rows of ``table`` as plain Python values; NaN and NA become None, ±Inf stays."""
    if table is None or not len(table):
        return []
    columns = {
        str(name): column.astype(object).where(column.notna(), None).tolist()
        for name, column in table.items()
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def looked_at(row: Record) -> tuple[dict[str, str], str]:
    """What compliance looked at in a model case: tensors by role, and its tolerance, "" where exact."""
    parts = [part.partition("=") for part in row["compliance"].split(";") if part.strip()]
    roles = {role.strip(): tensors.strip() for role, _, tensors in parts}
    tolerance = roles.pop("tolerance", "").removeprefix("exact")
    return roles, notation.count(int(tolerance), "ulp") if tolerance.isdecimal() else tolerance


def command(table: str, row: Record) -> str:
    """The command that measures the case of ``row`` again, quoted for a shell."""
    case = shlex.quote(f"{_TESTS[table]}[{row['case']}]")
    return f"pytest {case} {row.get('arguments') or ''}".strip()


def group_command(format: str, mode: str, arguments: str) -> str:
    """The command that measures every layer in ``format`` and ``mode`` again."""
    # The last of an option given twice is the one that counts.
    chosen = shlex.join([f"--qbench-formats={format}", f"--qbench-modes={mode}"])
    return " ".join(filter(None, ("pytest cases/test_layers.py", arguments, chosen)))


def _by_case(rows: list[Record]) -> dict[str, list[Record]]:
    cases: dict[str, list[Record]] = {}
    for row in rows:
        cases.setdefault(row["case"], []).append(row)
    return cases


def _order(row: Record) -> tuple[str, float]:
    return row["case"], row["order"] if row["order"] is not None else float("inf")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={part}" for name, part in value.items())
    return "" if value is None else str(value)
