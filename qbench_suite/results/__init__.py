"""Rows, journals, tables and gates."""

from qbench_suite.results.gates import Gates
from qbench_suite.results.integer_rows import IntegerRow, IntegerStageRow
from qbench_suite.results.journal import Journal, JournalContents, read_journals
from qbench_suite.results.linear_rows import LinearRow
from qbench_suite.results.model_rows import DetailRow, ModelLayerRow, ModelRow, ViolationRow
from qbench_suite.results.norm_rows import NormOutputRow, NormRow
from qbench_suite.results.row import FormatRow, LayerRow, QuantizerRow, Row, RunColumns
from qbench_suite.results.schema import ROW_TYPES, columns_markdown
from qbench_suite.results.tables import load, tables_of, write_tables

__all__ = [
    "ROW_TYPES",
    "DetailRow",
    "FormatRow",
    "Gates",
    "IntegerRow",
    "IntegerStageRow",
    "Journal",
    "JournalContents",
    "LayerRow",
    "LinearRow",
    "ModelLayerRow",
    "ModelRow",
    "NormOutputRow",
    "NormRow",
    "QuantizerRow",
    "Row",
    "RunColumns",
    "ViolationRow",
    "columns_markdown",
    "load",
    "read_journals",
    "tables_of",
    "write_tables",
]
