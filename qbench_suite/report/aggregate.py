"""Layer cases put together: by format and mode, and the worst of them."""

from __future__ import annotations

import math
from typing import Any

from qbench_suite.report.run import Record, Run, records


def by_format_and_mode(run: Run) -> list[Record]:
    """A record a (format, mode) of the layer cases; none without layer cases.

    SQNR: the median and the lowest over layers; bits, latency and slowdown: medians.
    """
    if "layers" not in run.tables:
        return []
    layers = run.tables["layers"]
    facts = layers.assign(
        passed=(layers.outcome == "passed").astype(int),
        checked=layers.compliant.notna().astype(int),
        compliant=layers.compliant.fillna(False).astype(int),
        off=layers.violations.fillna(0).astype("int64"),
    )
    groups = facts.groupby(["format", "mode"], sort=True).agg(
        layers=("case", "size"),
        passed=("passed", "sum"),
        checked=("checked", "sum"),
        legal=("compliant", "sum"),
        violations=("off", "sum"),
        sqnr_db_median=("sqnr_db", "median"),
        sqnr_db_worst=("sqnr_db", "min"),
        mse=("mse", "median"),
        weight_bits=("weight_bits_per_value", "median"),
        input_bits=("input_bits_per_value", "median"),
        latency_ms=("latency_ms", "median"),
        slowdown=("slowdown", "median"),
    )
    rows = records(groups.reset_index())
    return [row | {"compliant": f"{row['legal']}/{row['checked']}"} for row in rows]


def worst_layers(run: Run, number: int) -> list[Record]:
    """Layer cases of lowest SQNR, the worst first; those without a number are left out."""
    if "layers" not in run.tables:
        return []
    return records(run.tables["layers"].nsmallest(number, "sqnr_db"))


def worst_model_layers(run: Run, number: int) -> list[Record]:
    """Layers of converted models of lowest SQNR, the worst first, with their case's arguments."""
    if "model_layers" not in run.tables:
        return []
    return records(run.tables["model_layers"].nsmallest(number, "sqnr_db"))


def matrix(
    rows: list[Record], down: str, across: str, value: str
) -> tuple[list[str], list[str], list[list[Any]]]:
    """(row names, column names, values) of ``value`` by ``down`` and ``across``; NaN where empty.

    Names keep the order in which they come. Of cells that come twice the last counts.
    """
    names = list(dict.fromkeys(row[down] for row in rows))
    columns = list(dict.fromkeys(row[across] for row in rows))
    cells = {(row[down], row[across]): row[value] for row in rows}
    values = [[cells.get((n, c)) for c in columns] for n in names]
    return names, columns, [[math.nan if v is None else v for v in line] for line in values]
