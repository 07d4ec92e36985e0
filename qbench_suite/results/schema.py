"""Schema: which tables there are, their columns, and their description in Markdown."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any

from qbench_suite.results.integer_rows import IntegerRow, IntegerStageRow
from qbench_suite.results.linear_rows import LinearRow
from qbench_suite.results.model_rows import DetailRow, ModelLayerRow, ModelRow, ViolationRow
from qbench_suite.results.norm_rows import NormOutputRow, NormRow
from qbench_suite.results.row import FormatRow, LayerRow, QuantizerRow, Row, RunColumns

ROW_TYPES: tuple[type[Row], ...] = (
    LayerRow,
    FormatRow,
    QuantizerRow,
    ModelRow,
    LinearRow,
    IntegerRow,
    NormRow,
)
DETAIL_TYPES: tuple[type[DetailRow], ...] = (
    ModelLayerRow,
    ViolationRow,
    IntegerStageRow,
    NormOutputRow,
)
#: Any record that makes up a table.
AnyRow = type[Row] | type[DetailRow] | type[RunColumns]


def columns_of(row_type: AnyRow) -> list[Field[Any]]:
    """The columns of a table in order, the ones shared by all rows first."""
    return [f for f in fields(row_type) if "meaning" in f.metadata]


def columns_markdown() -> str:
    """Every column of every table as Markdown: the text of ``results/README.md`` below its rule."""
    parts = [_section("Every table", Row), _section("Every table, from the run", RunColumns)]
    shared = {f.name for f in columns_of(Row)}
    parts += [_section(f"`{t.table}`", t, shared) for t in ROW_TYPES]
    parts += [_section(f"`{t.table}`", t) for t in DETAIL_TYPES]
    return "\n".join(parts)


def _section(title: str, row_type: AnyRow, skip: set[str] | frozenset[str] = frozenset()) -> str:
    lines = [f"## {title}", "", "| column | unit | meaning |", "|---|---|---|"]
    lines += [
        f"| `{f.name}` | {f.metadata['unit']} | {f.metadata['meaning'].replace('|', chr(92) + '|')} |"
        for f in columns_of(row_type)
        if f.name not in skip
    ]
    return "\n".join([*lines, ""])


def empty_columns(row_type: AnyRow) -> dict[str, Any]:
    """Default value of each column, for tables of rows of an older schema."""
    return {f.name: None if f.default is MISSING else f.default for f in columns_of(row_type)}
