"""Sections of the page on whole models: accuracy, drift, compliance, latency, tables."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from qbench_suite.report import notation
from qbench_suite.report.aggregate import matrix, worst_model_layers
from qbench_suite.report.blocks import Card, Heatmap, Matrix, Strips, heatmap, strip
from qbench_suite.report.datatable import Column, DataTable, datatable, text
from qbench_suite.report.figures import Point, front
from qbench_suite.report.findings import by_model
from qbench_suite.report.pareto import front as front_of
from qbench_suite.report.run import Record, Run, command, looked_at

#: Models that have pictures; the tables have all.
PICTURED = 12
_WORST = 100
_VIOLATIONS = 200


def accuracy_cards(run: Run) -> list[Card]:
    """Accuracy against weight bits, a card a model."""
    return [
        card
        for number, (model, rows) in enumerate(by_model(run.models).items())
        if number < PICTURED and (card := _accuracy_card(f"accuracy{number}", model, rows))
    ]


def _accuracy_card(name: str, model: str, rows: list[Record]) -> Card | None:
    drawn = [r for r in rows if _finite(r["top1"]) and _finite(r["weight_bits"])]
    if not drawn:
        return None
    fair = [
        (r["weight_bits"], r["top1"]) if r["outcome"] == "passed" else (None, None) for r in drawn
    ]
    best = front_of(fair)
    points = [_point(row, number in best) for number, row in enumerate(drawn)]
    fp32 = next((r["fp32_top1"] for r in drawn if r["fp32_top1"] is not None), None)
    named = "; ".join(p.hint for p in sorted(points, key=lambda p: p.bits) if p.state == "front")
    alt = f"Top-1 of {model} against weight bits. Pareto front: {named or 'none'}."
    svg = front(points, name, "top-1 (%)", None if fp32 is None else ("FP32", fp32), alt)
    return Card(model, _dataset(drawn), svg)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _dataset(rows: list[Record]) -> str:
    names = "; ".join(dict.fromkeys(r["dataset"] for r in rows if r["dataset"]))
    images = sorted({r["images"] for r in rows if r["images"] is not None})
    size = " to ".join(f"{n:,}" for n in dict.fromkeys(images[:1] + images[-1:]))
    return ", ".join(filter(None, (names, f"{size} images" if size else "")))


def _point(row: Record, best: bool) -> Point:
    state = "failed" if row["outcome"] != "passed" else "front" if best else "dominated"
    low, high = row["top1_low"], row["top1_high"]
    span = notation.with_interval(row["top1"], low, high)
    failed = f", {row['outcome']}" if state == "failed" else ""
    return Point(
        row["weight_bits"],
        row["top1"],
        row["top1"] if low is None else low,
        row["top1"] if high is None else high,
        row["policy"],
        state,
        f"{row['policy']}: {notation.fixed(row['weight_bits'])} bits, {span} %{failed}",
    )


def drift_maps(run: Run) -> list[Heatmap]:
    """SQNR by layer and policy, a map a model."""
    maps = []
    for number, (model, rows) in enumerate(by_model(run.models).items()):
        layers = [layer for row in rows for layer in run.layers_of.get(row["case"], [])]
        layers.sort(key=lambda layer: layer["order"] if layer["order"] is not None else 0)
        if number >= PICTURED or not any(layer["sqnr_db"] is not None for layer in layers):
            continue
        names, policies, values = matrix(layers, "layer", "policy", "sqnr_db")
        order = _by_bits(rows, policies)
        table = names, [policies[i] for i in order], [[line[i] for i in order] for line in values]
        about = f"SQNR in dB of {model} by layer (first on top) and policy (more bits to the right)"
        maps.append(heatmap(f"drift{number}", model, table, about))
    return maps


def _by_bits(rows: list[Record], policies: list[str]) -> list[int]:
    bits = {row["policy"]: (row["weight_bits"] or 0, row["input_bits"] or 0) for row in rows}
    return sorted(range(len(policies)), key=lambda i: (bits.get(policies[i], (0, 0)), policies[i]))


def compliance_matrix(run: Run) -> Matrix | None:
    """Compliance by policy and model; None without model cases."""
    if not run.models:
        return None
    models = list(by_model(run.models))
    policies = sorted({row["policy"] for row in run.models})
    cells = {(row["policy"], row["model"]): _compliance(row) for row in run.models}
    empty = ("", "none", "not run")
    return Matrix(
        "policy", models, {p: [cells.get((p, m), empty) for m in models] for p in policies}
    )


def _compliance(row: Record) -> tuple[str, str, str]:
    if row["outcome"] == "error":
        return "error", "bad", notation.printable(row["reason"])
    if row["compliant"] is None:
        return "–", "none", "not looked at"
    checked = f"{notation.integer(row['checked_values']) or 'unknown'} values checked"
    if tolerance := looked_at(row)[1]:
        checked += f" within {tolerance}"
    if row["compliant"]:
        return "✓", "good", f"{checked}, all legal"
    off = notation.integer(row["violations"])
    return f"✗ {off}".strip(), "bad", f"{checked}, {off or 'some'} off the grid"


def latency_strips(run: Run) -> list[Strips]:
    """Latency of each policy beside FP32, a group a model."""
    groups = []
    for model, rows in list(by_model(run.models).items())[:PICTURED]:
        timed = [r for r in rows if _finite(r["latency_ms"])]
        ends = [r["latency_ms"] + (r["latency_iqr_ms"] or 0) / 2 for r in timed]
        fp32 = [r["fp32_latency_ms"] for r in timed if r["fp32_latency_ms"] is not None]
        end = max([*ends, *fp32], default=0)
        if 0 < end < math.inf:
            strips = [_latency(row, end) for row in timed]
            groups.append(Strips(model, f"0 to {notation.fixed(end, 1)} ms", strips))
    return groups


def _latency(row: Record, end: float) -> dict[str, Any]:
    half = (row["latency_iqr_ms"] or 0) / 2
    middle = row["latency_ms"]
    numbers = f"{notation.fixed(middle, 1)} ms"
    slowdown = notation.fixed(row["slowdown"])
    return strip(
        row["policy"],
        (middle - half, middle, middle + half),
        end,
        f"{numbers} · {slowdown} ×" if slowdown else numbers,
        least=row["latency_min_ms"],
        reference=row["fp32_latency_ms"],
    )


def model_table(run: Run, folders: dict[str, str] | None) -> DataTable | None:
    """Every model case; ``folders``: where the text report of a case is, by case, if it is known."""
    if not run.models:
        return None
    models = list(by_model(run.models))
    return datatable(
        "models",
        f"Every case of {models[0]}" if len(models) == 1 else "Every model case",
        _case_columns(several=len(models) > 1),
        run.models,
        details=lambda row: _case_details(row, folders or {}),
    )


def _case_columns(*, several: bool) -> list[Column]:
    """Columns in the order of what is looked for first; ``several``: there is more than one model."""
    return [
        Column("policy", "policy", kind="text", note=lambda row: row["model"] if several else ""),
        *([text("model", "model", wide=True)] if several else []),
        Column("compliant", "grid", kind="state", value=_mark),
        Column("top1", "top-1", "%", note=_interval),
        Column("weight_bits", "weight", "bits"),
        Column("input_bits", "input", "bits", wide=True),
        Column("delta", "Δ FP32", "points", value=lambda row: _negative(row["top1_drop"])),
        Column("outcome", "outcome", kind="state", wide=True),
        *([] if several else [Column("top5", "top-5", "%", wide=True)]),
        Column("agreement", "agrees", "%", digits=1, wide=True),
        Column("kl", "KL", "nat", digits=None, wide=True),
        Column("sqnr_db", "SQNR of logits", "dB", digits=1, wide=True),
        Column(
            "coverage",
            "coverage",
            "%",
            digits=1,
            value=lambda row: _percent(row["coverage"]),
            wide=True,
        ),
        Column("slowdown", "slowdown", "×", wide=True),
    ]


def _mark(row: Record) -> str:
    return {None: "–", True: "✓", False: "✗"}[row["compliant"]]


def _case_details(row: Record, folders: dict[str, str]) -> dict[str, Any]:
    names = ("full_model", "reason", "violation", "formats", "modes", "scales", "range_rules",
             "calibration", "dataset", "preprocessing", "skipped", "policy_hash", "machine")  # fmt: skip
    facts = {name.replace("_", " "): row.get(name) for name in names}
    flips = "" if row["lost"] is None else f"{row['lost']:,} lost, {row['gained'] or 0:,} gained"
    return {
        **facts,
        "flips": flips,
        "drop of top-1 (points)": notation.with_interval(
            row["top1_drop"], row.get("top1_drop_low"), row.get("top1_drop_high")
        ),
        "top-5 (%)": notation.with_interval(row["top5"], row["top5_low"], row["top5_high"]),
        "FP32 top-1 (%)": notation.with_interval(
            row["fp32_top1"], row["fp32_top1_low"], row["fp32_top1_high"]
        ),
        "on the grid": _compliance(row)[2],
        "latency (ms)": notation.fixed(row["latency_ms"], 1),
        "report": folders.get(row["case"]),
        "command": command("models", row),
    }


def _interval(row: Record) -> str:
    return notation.interval(row["top1_low"], row["top1_high"], 1)


def _negative(value: float | None) -> float | None:
    return None if value is None else 0.0 - value


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def worst_table(run: Run) -> DataTable | None:
    """Layers of converted models that have drifted farthest; None without any."""
    rows = worst_model_layers(run, _WORST)
    if not rows:
        return None
    columns = [
        Column("sqnr_db", "SQNR", "dB", digits=1),
        text("model", "model"),
        text("policy", "policy"),
        text("layer", "layer"),
        text("layer_type", "type"),
        Column("mse", "MSE", digits=None),
        Column("cosine", "cosine", digits=5),
        Column("input_dynamic_range_db", "input range", "dB", digits=1),
        Column("violations", "off the grid", "values", digits=0),
    ]
    return datatable(
        "worst-model-layers",
        f"The {len(rows)} layers of converted models that have drifted farthest",
        columns,
        rows,
        details=lambda row: {
            "quantized": row["roles"],
            "stays float": row["reason"],
            "command": command("models", row),
        },
    )


def violation_table(run: Run) -> DataTable | None:
    """The first values off the grid; None where there is none."""
    rows = [v for violations in run.violations_of.values() for v in violations]
    names = ("model", "policy", "layer", "role", "tensor", "index", "value", "nearest_below",
             "nearest_above", "scale", "format", "mode")  # fmt: skip
    if not rows:
        return None
    shown = rows[:_VIOLATIONS]
    columns = [text(name, name.replace("_", " ")) for name in names]
    return datatable(
        "violations", f"{len(shown):,} of {len(rows):,} values off the grid", columns, shown
    )


def float_table(run: Run) -> DataTable | None:
    """What stays float, by model, type and reason; None where nothing does."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for rows in run.layers_of.values():
        counts.update({(r["model"], r["layer_type"], r["reason"]) for r in rows if r["reason"]})
    if not counts:
        return None
    rows = [
        {"model": m, "type": t, "reason": r, "policies": n}
        for (m, t, r), n in sorted(counts.items())
    ]
    columns = [
        text("model", "model"),
        text("type", "type"),
        text("reason", "reason"),
        Column("policies", "policies", digits=0),
    ]
    return datatable("float", "What stays float in converted models, and why", columns, rows)
