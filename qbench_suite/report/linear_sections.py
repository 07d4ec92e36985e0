"""Sections of the page on linear layers that compute in low precision."""

from __future__ import annotations

import math
from statistics import median

from qbench_suite.report import notation
from qbench_suite.report.blocks import Card
from qbench_suite.report.datatable import Column, DataTable, datatable, text
from qbench_suite.report.lines import Line, chart
from qbench_suite.report.run import Record, Run, command, records

#: Sizes and dtypes that have pictures; the table has all.
_PICTURED = 12
_MIB = 1 << 20


def linear_rows(run: Run) -> list[Record]:
    """Rows of linear cases by size, entry, dtype and rows; each with its ``size``, ``OUT×IN``."""
    rows = records(run.tables.get("linears"))
    for row in rows:
        out, inner = (row[name] for name in ("out_features", "in_features"))
        row["size"] = "" if None in (out, inner) else f"{out}×{inner}"
    return sorted(rows, key=lambda r: (r["size"], r["entry"], r["dtype"], r["rows"] or 0))


def latency_cards(run: Run) -> list[Card]:
    """Latency against rows, a card a size and dtype of inputs."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for row in linear_rows(run):
        if _drawable(row["latency_ms"]) and row["rows"]:
            groups.setdefault((row["size"], row["dtype"]), []).append(row)
    return [
        _latency_card(f"linears{number}", size, dtype, rows)
        for number, ((size, dtype), rows) in enumerate(sorted(groups.items())[:_PICTURED])
    ]


def _drawable(value: float | None) -> bool:
    return value is not None and 0 < value < math.inf


def _latency_card(name: str, size: str, dtype: str, rows: list[Record]) -> Card:
    lines = [
        _line(e, [r for r in rows if r["entry"] == e])
        for e in dict.fromkeys(r["entry"] for r in rows)
    ]
    references = [
        line
        for label, column in (("FP32", "fp32_latency_ms"), ("BF16", "bf16_latency_ms"))
        if (line := _reference(label, rows, column)).points
    ]
    best = max(rows, key=lambda r: r["speedup_fp32"] or 0)
    about = f"Latency against rows of linear layers {size} on {dtype} inputs"
    alt = f"{about}. Fastest over FP32: {_hint(best)}."
    svg = chart([*references, *lines], name, "rows of the input", "latency (ms)", alt)
    threads = notation.count(rows[0]["threads"], "thread") if rows[0]["threads"] else ""
    note = ", ".join(filter(None, (f"{dtype} inputs", threads)))
    return Card(f"{size} weights", note, svg)


def _line(entry: str, rows: list[Record]) -> Line:
    points = [(row["rows"], row["latency_ms"]) for row in rows]
    return Line(entry, points, [_hint(row) for row in rows])


def _reference(label: str, rows: list[Record], column: str) -> Line:
    """The float layer: the median of what it took beside each entry."""
    times: dict[int, list[float]] = {}
    for row in rows:
        if _drawable(row[column]):
            times.setdefault(row["rows"], []).append(row[column])
    return Line(
        label, [(n, median(found)) for n, found in sorted(times.items())], [], reference=True
    )


def _hint(row: Record) -> str:
    number = notation.count(row["rows"], "row")
    return ", ".join(
        filter(
            None,
            (
                f"{row['entry']}, {number}: {notation.significant(row['latency_ms'])} ms",
                _over(row["speedup_fp32"], "FP32"),
                _over(row["speedup_bf16"], "BF16"),
                row["kernel"],
            ),
        )
    )


def _over(speedup: float | None, what: str) -> str:
    found = notation.fixed(speedup)
    return f"{found} × {what}" if found else ""


def linear_table(run: Run) -> DataTable | None:
    """Every linear case; None without any."""
    rows = linear_rows(run)
    if not rows:
        return None
    columns = [
        Column("entry", "layer", kind="text", note=lambda row: row["dtype"]),
        text("dtype", "dtype", wide=True),
        Column("rows", "rows", digits=0),
        text("size", "size", wide=True),
        Column("outcome", "outcome", kind="state", wide=True),
        Column("speedup_fp32", "over FP32", "×"),
        Column("speedup_bf16", "over BF16", "×"),
        Column("latency_ms", "latency", "ms", digits=3, wide=True),
        text("kernel", "kernel", wide=True),
        Column("gb_per_s", "bandwidth", "GB/s", digits=1, wide=True),
        Column("compression", "smaller", "×", wide=True),
        Column(
            "peak", "peak of a call", "MiB", value=lambda row: _mib(row["peak_bytes"]), wide=True
        ),
        Column("sqnr_db", "SQNR", "dB", digits=1),
        Column("weight_sqnr_db", "of weights", "dB", digits=1, wide=True),
        Column("max_abs_err", "largest error", digits=None, wide=True),
    ]
    return datatable("linears", "Every linear case", columns, rows, details=_details)


def _mib(count: float | None) -> float | None:
    return None if count is None else count / _MIB


def _details(row: Record) -> dict[str, str]:
    return {
        "reason": row["reason"],
        "FP32 (ms)": notation.fixed(row["fp32_latency_ms"], 3),
        "BF16 (ms)": notation.fixed(row["bf16_latency_ms"], 3),
        "SQNR of BF16 (dB)": notation.fixed(row["bf16_sqnr_db"], 1),
        "bytes of weights": notation.integer(row["weight_bytes"]),
        "format": row["format"],
        "owner": row["entry_owner"],
        "command": command("linears", row),
    }


def lead(run: Run) -> str:
    """The linear cases in a sentence; nothing where none was timed."""
    timed = [
        r for r in linear_rows(run) if r["outcome"] == "passed" and _drawable(r["speedup_fp32"])
    ]
    if not timed:
        return ""
    best = max(timed, key=lambda row: row["speedup_fp32"])
    layers = notation.count(len({row["entry"] for row in timed}), "linear layer")
    return f"Of {layers} in low precision the fastest over FP32 is {_hint(best)}."
