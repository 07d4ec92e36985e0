"""Sections of the page on models that run in integers."""

from __future__ import annotations

import math
from statistics import median, quantiles
from typing import Any

from qbench_suite.report import notation
from qbench_suite.report.blocks import Matrix, Strips, strip
from qbench_suite.report.datatable import Column, DataTable, datatable, text
from qbench_suite.report.findings import by_model
from qbench_suite.report.run import Record, Run, command, records

#: Models, or models by method, that have pictures; the tables have all.
_PICTURED = 12


def integer_rows(run: Run) -> list[Record]:
    """Rows of integer cases by model and method."""
    rows = records(run.tables.get("integers"))
    return sorted(rows, key=lambda row: (row["model"], row["method"]))


def accuracy_strips(run: Run) -> list[Strips]:
    """Top-1 of each method with its interval beside FP32, a group a model."""
    groups = []
    for model, rows in list(by_model(integer_rows(run)).items())[:_PICTURED]:
        known = [row for row in rows if _finite(row["top1"])]
        if known:
            groups.append(_accuracy(model, known))
    return groups


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _accuracy(model: str, rows: list[Record]) -> Strips:
    fp32 = next((r for r in rows if _finite(r["fp32_top1"])), None)
    named = [("FP32", _ends(fp32, "fp32_top1"))] if fp32 else []
    named += [(row["method"], _ends(row, "top1")) for row in rows]
    low = math.floor(min(ends[0] for _, ends in named))
    high = max(math.ceil(max(ends[2] for _, ends in named)), low + 1)
    reference = fp32["fp32_top1"] - low if fp32 else None
    strips = [
        strip(
            name,
            (ends[0] - low, ends[1] - low, ends[2] - low),
            high - low,
            f"{notation.fixed(ends[1])} %",
            reference=reference,
        )
        for name, ends in named
    ]
    images = rows[0]["images"]
    size = f" of {notation.count(images, 'image')}" if images is not None else ""
    return Strips(model, f"top-1{size}, {low} to {high} %", strips)


def _ends(row: Record, name: str) -> tuple[float, float, float]:
    middle = row[name]
    low, high = (row[f"{name}_{end}"] for end in ("low", "high"))
    return (low if _finite(low) else middle), middle, (high if _finite(high) else middle)


def stage_strips(run: Run) -> list[Strips]:
    """SQNR of each step over the blocks, a group a model and method."""
    cases: dict[tuple[str, str], dict[str, list[float]]] = {}
    rows = records(run.tables.get("integer_stages"))
    for row in sorted(rows, key=lambda r: (r["model"], r["method"], r["order"] or 0)):
        if row["sqnr_db"] is not None:
            stages = cases.setdefault((row["model"], row["method"]), {})
            stages.setdefault(row["stage"], []).append(row["sqnr_db"])
    return [
        drawn
        for (model, method), stages in list(cases.items())[:_PICTURED]
        if (drawn := _stages(f"{model} by {method}", stages))
    ]


def _stages(title: str, stages: dict[str, list[float]]) -> Strips | None:
    """Strips from 0 dB: what is below has lost more than it keeps, what is exact fills the strip."""
    end = max((v for found in stages.values() for v in found if math.isfinite(v)), default=0.0)
    if end <= 0:
        return None
    strips = [
        _stage(name, [min(max(v, 0.0), end) for v in found], found, end)
        for name, found in stages.items()
    ]
    return Strips(title, f"SQNR, 0 to {notation.fixed(end, 1)} dB", strips)


def _stage(name: str, shown: list[float], found: list[float], end: float) -> dict[str, Any]:
    low, _, high = quantiles(shown, n=4, method="inclusive") if len(shown) > 1 else shown * 3
    numbers = f"{notation.fixed(median(found), 1)} dB"
    if len(found) > 1:
        numbers += f", least {notation.fixed(min(found), 1)}"
    return strip(name, (low, median(shown), high), end, numbers, least=min(shown))


def audit_matrix(run: Run) -> Matrix | None:
    """What each audit found, a line a model and method; None without integer cases."""
    rows = integer_rows(run)
    if not rows:
        return None
    columns = ["operations", "instructions", "integers only"]
    return Matrix(
        "model, method", columns, {f"{r['model']}, {r['method']}": _audit(r) for r in rows}
    )


def _audit(row: Record) -> list[tuple[str, str, str]]:
    hint = row["audits"] or "not looked at"
    return [
        _found(row["float_operations"], row["audited_operations"], hint),
        _found(row["float_instructions"], row["audited_instructions"], hint),
        {
            None: ("–", "none", "not every audit could be made"),
            True: ("✓", "good", hint),
            False: ("✗", "bad", hint),
        }[row["integer_only"]],
    ]


def _found(floats: int | None, looked_at: int | None, hint: str) -> tuple[str, str, str]:
    if floats is None or not looked_at:
        return "–", "none", hint
    text = f"{notation.integer(floats)} float of {notation.integer(looked_at)}"
    return text, "bad" if floats else "good", hint


def integer_table(run: Run) -> DataTable | None:
    """Every integer case; None without any."""
    rows = integer_rows(run)
    if not rows:
        return None
    columns = [
        Column("method", "method", kind="text", note=lambda row: row["model"]),
        text("model", "model", wide=True),
        Column("integer_only", "no float", kind="state", value=_mark),
        Column("top1", "top-1", "%", note=_interval),
        Column(
            "delta",
            "Δ FP32",
            "points",
            value=lambda r: None if r["top1_drop"] is None else 0.0 - r["top1_drop"],
        ),
        Column("branch_sqnr_db", "worst branch", "dB", digits=1, wide=True),
        Column("speedup_fp32", "block over FP32", "×"),
        Column("speedup_bf16", "over BF16", "×", wide=True),
        Column("speedup_bf16_compiled", "over compiled BF16", "×", wide=True),
        Column("model_speedup", "model over FP32", "×", wide=True),
        Column("blocks", "blocks", digits=0, wide=True),
        Column("calibration_s", "calibration", "s", digits=1, wide=True),
        Column("outcome", "outcome", kind="state", wide=True),
    ]
    return datatable("integers", "Every integer case", columns, rows, details=_details)


def _mark(row: Record) -> str:
    return {None: "–", True: "✓", False: "✗"}[row["integer_only"]]


def _interval(row: Record) -> str:
    return notation.interval(row["top1_low"], row["top1_high"], 1)


def _details(row: Record) -> dict[str, Any]:
    names = ("full_model", "reason", "refused", "audits", "calibration", "dataset", "worst_block",
             "timed_block", "uncompiled", "machine")  # fmt: skip
    facts = {name.replace("_", " "): row.get(name) for name in names}
    return {
        **facts,
        "FP32 top-1 (%)": notation.with_interval(
            row["fp32_top1"], row["fp32_top1_low"], row["fp32_top1_high"]
        ),
        "bytes of blocks": notation.integer(row["state_bytes"]),
        "bytes of float blocks": notation.integer(row["fp32_state_bytes"]),
        "block (ms)": notation.fixed(row["latency_ms"], 2),
        "model (ms)": notation.fixed(row["model_ms"], 2),
        "command": command("integers", row),
    }


def lead(run: Run) -> str:
    """The integer cases in a sentence; nothing where none has passed."""
    passed = [row for row in integer_rows(run) if row["outcome"] == "passed"]
    if not passed:
        return ""
    models = notation.count(len({row["model"] for row in passed}), "model")
    audited = sum(row["integer_only"] is True for row in passed)
    text = f"{models} in integers: no float operation in the blocks of {audited} of {len(passed)} cases"
    timed = [row for row in passed if _finite(row["speedup_fp32"])]
    if timed:
        best = max(timed, key=lambda row: row["speedup_fp32"])
        fast = f"{notation.fixed(best['speedup_fp32'], 1)} × FP32"
        text += f"; the fastest block is {best['model']}'s by {best['method']}, {fast}"
    return f"{text}."
