"""Tables: the rows of a run as DataFrames, written as parquet and CSV."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench_suite.errors import ResultsError
from qbench_suite.results.journal import JournalContents, read_journals
from qbench_suite.results.row import RunColumns
from qbench_suite.results.schema import DETAIL_TYPES, ROW_TYPES, AnyRow, columns_of, empty_columns

if TYPE_CHECKING:
    import pandas as pd

_RUN_COLUMNS = [f.name for f in fields(RunColumns)]


def load(path: str | Path) -> dict[str, pd.DataFrame]:
    """The tables of a run by name, as ``qbench list columns`` describes them, and ``left_float``.

    ``path``: a run's folder, read from its journals, so that a run that was killed, or is still going
    on, can be read too; or a folder of runs, whose tables are joined (column ``run`` tells them
    apart). A table without rows is absent. Raises ``ResultsError`` where there is no run.
    """
    import pandas as pd

    folder = Path(path)
    if not folder.is_dir():
        raise ResultsError(f"A run is a folder; {folder} is none. Look under results/.")
    runs = [folder] if any(folder.glob("journal-*.jsonl")) else _runs_in(folder)
    tables: dict[str, list[pd.DataFrame]] = {}
    for run in runs:
        for name, table in tables_of(read_journals(run)).items():
            tables.setdefault(name, []).append(table)
    return {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}


def tables_of(contents: JournalContents) -> dict[str, pd.DataFrame]:
    """The tables that the journals of a run make up."""
    tables = {t.table: _table(t, _rows(t.table, contents), contents) for t in ROW_TYPES}
    for detail in DETAIL_TYPES:
        tables[detail.table] = _table(detail, contents.details.get(detail.table, []), contents)
    tables["left_float"] = _left_float(contents)
    return {name: table for name, table in tables.items() if len(table)}


def write_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Build the tables of the run in ``folder`` and write each as ``NAME.parquet`` and ``NAME.csv``.

    Where pyarrow is not installed only the CSV is written. Raises ``ResultsError`` if the disk is full.
    """
    tables = tables_of(read_journals(folder))
    try:
        for name, table in tables.items():
            table.to_csv(folder / f"{name}.csv", index=False)
            try:
                table.to_parquet(folder / f"{name}.parquet", index=False)
            except ImportError:
                continue
    except OSError as error:
        raise ResultsError(
            f"The tables of a run are written beside its journals; {folder}: {error}. Free space; the "
            f"journals are whole, and qbench_suite.load({str(folder)!r}) reads them."
        ) from error
    return tables


def _runs_in(folder: Path) -> list[Path]:
    runs = sorted({path.parent for path in folder.glob("*/journal-*.jsonl")})
    if not runs:
        raise ResultsError(
            f"A results folder holds runs with journal-*.jsonl; {folder} holds none. Run pytest first."
        )
    return runs


def _rows(table: str, contents: JournalContents) -> list[dict[str, Any]]:
    return [row for name, row in contents.rows.values() if name == table]


def _table(
    row_type: AnyRow, records: list[dict[str, Any]], contents: JournalContents
) -> pd.DataFrame:
    import pandas as pd

    rows = [
        empty_columns(row_type) | row | _run_columns(contents, row["_header"]) for row in records
    ]
    names = [f.name for f in columns_of(row_type)]
    table = pd.DataFrame(rows, columns=[*names, *_RUN_COLUMNS])
    for f in columns_of(row_type):
        if "float" in str(f.type):
            table[f.name] = pd.to_numeric(table[f.name]).astype(float)
        elif "int" in str(f.type):
            table[f.name] = table[f.name].astype("Int64")
        elif "bool" in str(f.type):
            table[f.name] = table[f.name].astype("boolean")
    return table


def _run_columns(contents: JournalContents, header: int) -> dict[str, Any]:
    record = contents.headers[header] if header < len(contents.headers) else {}
    return {name: record.get(name, "") for name in _RUN_COLUMNS}


def _left_float(contents: JournalContents) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        [
            {"model": model, **module}
            for model, modules in contents.left_float.items()
            for module in modules
        ]
    )
