"""Rows, journals, tables and gates."""

from qbench_suite.results.gates import Gates
from qbench_suite.results.journal import Journal, JournalContents, read_journals
from qbench_suite.results.row import (
    ROW_TYPES,
    FormatRow,
    LayerRow,
    QuantizerRow,
    Row,
    RunColumns,
    columns_markdown,
)
from qbench_suite.results.tables import load, tables_of, write_tables

__all__ = [
    "ROW_TYPES",
    "FormatRow",
    "Gates",
    "Journal",
    "JournalContents",
    "LayerRow",
    "QuantizerRow",
    "Row",
    "RunColumns",
    "columns_markdown",
    "load",
    "read_journals",
    "tables_of",
    "write_tables",
]
