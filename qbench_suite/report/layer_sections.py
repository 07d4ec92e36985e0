"""Sections of the page on layer, format and quantizer cases."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from qbench_suite.report import notation
from qbench_suite.report.aggregate import by_format_and_mode, matrix, worst_layers
from qbench_suite.report.blocks import Card, Heatmap, Matrix, Strips, heatmap, level, strip
from qbench_suite.report.datatable import Column, DataTable, datatable, text
from qbench_suite.report.figures import Point, front
from qbench_suite.report.model_sections import PICTURED
from qbench_suite.report.pareto import front as front_of
from qbench_suite.report.run import Record, Run, command, group_command, records

_WORST = 100


def layer_card(run: Run) -> list[Card]:
    """SQNR of the median layer against weight bits, a point a (format, mode)."""
    groups = by_format_and_mode(run)
    drawn = [g for g in groups if _finite(g["sqnr_db_median"]) and g["weight_bits"] is not None]
    if not drawn:
        return []
    best = front_of([(g["weight_bits"], g["sqnr_db_median"]) for g in drawn])
    quartiles = _quartiles(run, "sqnr_db")
    points = []
    for number, group in enumerate(drawn):
        low, middle, high = quartiles[group["format"], group["mode"]]
        name = f"{group['format']}-{group['mode']}"
        hint = (
            f"{name}: {notation.fixed(group['weight_bits'])} bits, {notation.fixed(middle, 1)} dB"
        )
        state = "front" if number in best else "dominated"
        points.append(Point(group["weight_bits"], middle, low, high, name, state, hint))
    named = "; ".join(p.hint for p in sorted(points, key=lambda p: p.bits) if p.state == "front")
    alt = f"SQNR of the median layer against weight bits. Pareto front: {named}."
    svg = front(points, "layers", "SQNR (dB)", None, alt)
    return [Card("Every layer by itself", "median and quartiles over layers", svg)]


def _finite(value: float | None) -> bool:
    return value is not None and abs(value) != float("inf")


def _quartiles(run: Run, column: str) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Quartiles of ``column`` over layers by format and mode; ±Inf counts as empty."""
    import pandas as pd

    layers = run.tables["layers"]
    finite = layers[column].where(layers[column].abs() != float("inf"))
    groups = finite.groupby([layers["format"], layers["mode"]])
    table = pd.DataFrame({q: groups.quantile(q) for q in (0.25, 0.5, 0.75)}).dropna()
    return {
        (str(f), str(m)): (low, middle, high)
        for (f, m), low, middle, high in zip(table.index, *table.to_numpy().T, strict=True)
    }


def layer_maps(run: Run) -> list[Heatmap]:
    """SQNR by layer and format-mode, a map a model."""
    if "layers" not in run.tables:
        return []
    layers = run.tables["layers"][["model", "layer", "format", "mode", "sqnr_db"]]
    models = sorted(layers["model"].unique())[:PICTURED]
    return [
        drawn
        for number, model in enumerate(models)
        if (drawn := _layer_map(run, f"layers{number}", str(model)))
    ]


def _layer_map(run: Run, name: str, model: str) -> Heatmap | None:
    layers = run.tables["layers"]
    rows = records(layers.loc[layers["model"] == model, ["layer", "format", "mode", "sqnr_db"]])
    if all(row["sqnr_db"] is None for row in rows):
        return None
    for row in rows:
        row["quantizer"] = f"{row['format']}-{row['mode']}"
    order = _order_of_layers(run, model)
    rows.sort(key=lambda row: row["quantizer"])
    rows.sort(key=lambda row: order(row["layer"]))
    table = matrix(rows, "layer", "quantizer", "sqnr_db")
    about = f"SQNR in dB of single layers of {model} by layer and format-mode"
    return heatmap(name, model, table, about)


def _order_of_layers(run: Run, model: str) -> Callable[[str], Any]:
    """What layers of ``model`` are sorted by: when they run, where that is known, else their name.

    Numbers in names count as numbers: ``blocks.2`` comes before ``blocks.10``.
    """
    rows = (row for case in run.layers_of.values() for row in case if row["model"] == model)
    runs = {row["layer"]: row["order"] for row in rows if row["order"] is not None}

    def key(layer: str) -> Any:
        parts = re.split(r"(\d+)", layer)
        name = [int(part) if number % 2 else part for number, part in enumerate(parts)]
        return runs.get(layer, len(runs)), name

    return key


def compliance_matrix(run: Run) -> Matrix | None:
    """Compliant layer cases by format and mode; None without layer cases."""
    groups = by_format_and_mode(run)
    if not groups:
        return None
    modes = sorted({g["mode"] for g in groups})
    cells: dict[tuple[str, str], tuple[str, str, str]] = {}
    for group in groups:
        state = _state(group)
        hint = f"{group['violations']:,} values off the grid, {group['checked']:,} cases looked at"
        mark = {"good": "✓ ", "bad": "✗ "}.get(state, "")
        cells[group["format"], group["mode"]] = (f"{mark}{group['compliant']}", state, hint)
    formats = sorted({g["format"] for g in groups})
    empty = ("", "none", "not run")
    return Matrix("format", modes, {f: [cells.get((f, m), empty) for m in modes] for f in formats})


def _state(group: Record) -> str:
    if not group["checked"]:
        return "none"
    return "good" if group["legal"] == group["checked"] else "bad"


def slowdown_strips(run: Run) -> list[Strips]:
    """Quartiles over layers of the time over FP32, by format and mode."""
    if "layers" not in run.tables:
        return []
    quartiles = _quartiles(run, "slowdown")
    end = max((q[2] for q in quartiles.values()), default=0.0)
    if end <= 0:
        return []
    strips = [
        strip(f"{f}-{m}", q, end, f"{notation.fixed(q[1])} ×", reference=1.0)
        for (f, m), q in quartiles.items()
    ]
    return [Strips("Layers by themselves", f"0 to {notation.fixed(end, 1)} × FP32", strips)]


def group_table(run: Run) -> DataTable | None:
    """Layer cases by format and mode; None without any."""
    groups = by_format_and_mode(run)
    if not groups:
        return None
    arguments = run.tables["layers"]["arguments"].iloc[-1] or ""
    columns = [
        text("format", "format"),
        text("mode", "mode"),
        Column("layers", "layers", digits=0),
        Column("passed", "passed", digits=0),
        text("compliant", "compliant"),
        Column("sqnr_db_median", "SQNR median", "dB"),
        Column("sqnr_db_worst", "SQNR worst", "dB"),
        Column("mse", "MSE median", digits=None),
        Column("weight_bits", "weight", "bits"),
        Column("input_bits", "input", "bits"),
        Column("latency_ms", "latency", "ms", digits=3),
        Column("slowdown", "slowdown", "×"),
    ]
    return datatable(
        "format-mode",
        "Layer cases by format and mode",
        columns,
        groups,
        details=lambda g: {"command": group_command(g["format"], g["mode"], arguments)},
    )


def worst_table(run: Run) -> DataTable | None:
    """Layer cases of lowest SQNR; None without any."""
    rows = worst_layers(run, _WORST)
    if not rows:
        return None
    columns = [
        Column("sqnr_db", "SQNR", "dB", digits=1),
        text("model", "model"),
        text("layer", "layer"),
        text("layer_type", "type"),
        text("format", "format"),
        text("mode", "mode"),
        Column("outcome", "outcome", kind="state"),
        Column("cosine", "cosine", digits=5),
        Column("input_dynamic_range_db", "input range", "dB", digits=1),
        Column("slowdown", "slowdown", "×"),
    ]
    return datatable(
        "worst-layers",
        f"The {len(rows)} layer cases of lowest SQNR",
        columns,
        rows,
        details=lambda row: {
            "reason": row["reason"],
            "quantized": row["roles"],
            "command": command("layers", row),
        },
    )


def failed_table(run: Run) -> DataTable | None:
    """Cases of all tables but models that failed or could not be measured; None without any."""
    rows: list[dict[str, Any]] = []
    for name in ("layers", "formats", "quantizers", "linears", "integers", "norms"):
        if name in run.tables:
            table = run.tables[name]
            rows += [{"table": name, **row} for row in records(table[table["outcome"] != "passed"])]
    if not rows:
        return None
    shown = sorted(rows, key=lambda row: row["outcome"])[:_WORST]
    columns = [
        text("table", "kind"),
        text("case", "case"),
        Column("outcome", "outcome", kind="state"),
        text("reason", "reason"),
    ]
    return datatable(
        "failed",
        f"{len(shown):,} of {len(rows):,} cases that have not passed",
        columns,
        shown,
        details=lambda row: {"violation": row["violation"], "command": command(row["table"], row)},
    )


def format_matrix(run: Run) -> tuple[list[str], list[tuple[str, list[tuple[str, int]]]]] | None:
    """(distributions, (format, cells)) of SQNR by format and distribution; None without any."""
    rows = records(run.tables.get("formats"))
    if not rows:
        return None
    rows.sort(key=lambda row: (row["format"], row["distribution"]))
    names, columns, values = matrix(rows, "format", "distribution", "sqnr_db")
    cells = [[(notation.fixed(v, 1), level(v)) for v in line] for line in values]
    return columns, list(zip(names, cells, strict=True))


def quantizer_table(run: Run) -> DataTable | None:
    """Throughput of fake-quantize; None without quantizer cases."""
    rows = records(run.tables.get("quantizers"))
    if not rows:
        return None
    columns = [
        text("format", "format"),
        text("mode", "mode"),
        text("shape", "shape"),
        Column("outcome", "outcome", kind="state"),
        Column("gelem_per_s", "throughput", "Gelem/s"),
        Column("gb_per_s", "bandwidth", "GB/s"),
        Column("copy_ratio", "speed of a copy", "share"),
        Column("eager_ratio", "over eager", "×"),
        Column("bits_per_value", "element", "bits"),
        Column("latency_ms", "latency", "ms", digits=3),
        Column("latency_iqr_ms", "IQR", "ms", digits=3),
    ]
    return datatable(
        "quantizers",
        "Throughput of fake-quantize",
        columns,
        rows,
        details=lambda row: {"reason": row["reason"], "command": command("quantizers", row)},
    )


def left_float_table(run: Run) -> DataTable | None:
    """Modules that no layer case measures, by model, type and reason; None where there is none."""
    if "left_float" not in run.tables:
        return None
    table = run.tables["left_float"]
    names = [n for n in ("model", "module_type", "reason") if n in table]
    counts = table.groupby(names, sort=True).size().rename("modules").reset_index()
    columns = [text(n, n.replace("_", " ")) for n in names] + [
        Column("modules", "modules", digits=0)
    ]
    return datatable("left-float", "Modules without a layer case", columns, records(counts))
