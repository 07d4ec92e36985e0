"""Sections of the page on normalization kernels."""

from __future__ import annotations

import math
from statistics import median

from qbench_suite.report import notation
from qbench_suite.report.blocks import Card
from qbench_suite.report.datatable import Column, DataTable, datatable, text
from qbench_suite.report.lines import Line, chart
from qbench_suite.report.run import Record, Run, command, records

#: Operations and dtypes that have pictures, those with most kernels first; the table has all.
_PICTURED = 12
_MIB = 1 << 20


def norm_rows(run: Run) -> list[Record]:
    """Rows of norm cases by operation, dtype, bytes, shape and provider."""
    rows = records(run.tables.get("norms"))
    return sorted(
        rows,
        key=lambda r: (
            r["operation"],
            r["dtype"],
            r["bytes_moved"] or 0,
            r["shape"],
            r["provider"],
        ),
    )


def bandwidth_cards(run: Run) -> list[Card]:
    """Bandwidth against bytes moved, a card an operation and dtype."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for row in norm_rows(run):
        if _drawable(row["gb_per_s"]) and row["bytes_moved"]:
            groups.setdefault((row["operation"], row["dtype"]), []).append(row)
    telling = {group: found for group, found in groups.items() if len(found) > 1}
    fullest = sorted(telling, key=lambda group: (*_size(telling[group]), group))
    return [
        _card(f"norms{number}", *group, telling[group])
        for number, group in enumerate(sorted(fullest[:_PICTURED]))
    ]


def _size(rows: list[Record]) -> tuple[int, int]:
    """The more kernels and shapes, the less."""
    return -len({row["provider"] for row in rows}), -len({row["shape"] for row in rows})


def _drawable(value: float | None) -> bool:
    return value is not None and 0 < value < math.inf


def _card(name: str, operation: str, dtype: str, rows: list[Record]) -> Card:
    providers = dict.fromkeys(row["provider"] for row in rows)
    lines = [_line(p, [r for r in rows if r["provider"] == p]) for p in providers]
    copy = _copy(rows)
    best = max(rows, key=lambda row: row["gb_per_s"])
    alt = f"Bandwidth against bytes moved of {operation} on {dtype}. Highest: {hint(best)}."
    references = [copy] if copy.points else []
    svg = chart([*references, *lines], name, "MiB moved", "GB/s", alt)
    notes = (f"{dtype} inputs", rows[0]["method"].replace("_", " "), f"{rows[0]['cache']} cache")
    return Card(operation, ", ".join(notes), svg)


def _line(provider: str, rows: list[Record]) -> Line:
    points = [(_mib(row["bytes_moved"]), row["gb_per_s"]) for row in rows]
    return Line(provider, points, [hint(row) for row in rows])


def _copy(rows: list[Record]) -> Line:
    """The copy of as many bytes: the median of what it reached beside each kernel."""
    found: dict[float, list[float]] = {}
    for row in rows:
        if _drawable(row["copy_gb_per_s"]):
            found.setdefault(_mib(row["bytes_moved"]), []).append(row["copy_gb_per_s"])
    points = [(mib, median(speeds)) for mib, speeds in sorted(found.items())]
    return Line("copy", points, [], reference=True)


def _mib(count: float) -> float:
    """MiB with the three digits that an axis has room for."""
    return float(f"{count / _MIB:.3g}")


def hint(row: Record) -> str:
    """A timed case in a line: its kernel and shape, latency, share of a copy and ratio to torch."""
    case = f"{row['provider']}, {row['shape'].replace('x', '×')}"
    parts = (
        f"{case}: {notation.significant(row['latency_ms'])} ms",
        f"{notation.significant(row['gb_per_s'])} GB/s",
        _with(percent(row["copy_share"]), "{} % of a copy"),
        _with(notation.fixed(row["speedup_torch"]), "{} × torch"),
    )
    return ", ".join(filter(None, parts))


def _with(value: str, words: str) -> str:
    return words.format(value) if value else ""


def percent(share: float | None) -> str:
    """A share in whole percent."""
    return "" if share is None else notation.fixed(100 * share, 0)


def norm_table(run: Run) -> DataTable | None:
    """Every norm case; None without any."""
    rows = norm_rows(run)
    if not rows:
        return None
    columns = [
        Column("operation", "operation", kind="text", note=lambda row: row["shape"]),
        text("provider", "kernel"),
        text("shape", "shape", wide=True),
        text("dtype", "dtype", wide=True),
        Column("outcome", "outcome", kind="state", wide=True),
        Column("latency_ms", "latency", "ms", digits=None, wide=True),
        Column("gb_per_s", "bandwidth", "GB/s", digits=1),
        Column("copy_share", "of a copy", "share"),
        Column("speedup_torch", "over torch", "×"),
        Column("max_ulp", "error", "ulp"),
        Column("torch_max_ulp", "torch's", "ulp", wide=True),
    ]
    return datatable("norms", "Every norm case", columns, rows, details=_details)


def _details(row: Record) -> dict[str, str]:
    return {
        "reason": row["reason"],
        "worst output": row["worst_output"],
        "tolerance (ulp)": notation.fixed(row["tolerance_ulp"], 1),
        "99.9 % within (ulp)": notation.fixed(row["p999_ulp"]),
        "codes that differ": notation.significant(row["codes_off"]),
        "same bits again": notation.verdict(row["deterministic"]),
        "torch (ms)": notation.significant(row["torch_latency_ms"]),
        "copy (GB/s)": notation.fixed(row["copy_gb_per_s"], 1),
        "peak (GB/s)": notation.fixed(row["peak_gb_per_s"], 0),
        "warm (ms)": notation.significant(row["warm_latency_ms"]),
        "host overhead (µs)": notation.fixed(row["host_overhead_us"], 1),
        "method": row["method"],
        "cache": row["cache"],
        "sets of inputs": notation.integer(row["input_sets"]),
        "bytes moved": notation.integer(row["bytes_moved"]),
        "affine": row["affine"],
        "format": row["format"],
        "owner": row["kernel_owner"],
        "command": command("norms", row),
    }


def lead(run: Run) -> str:
    """The norm cases in a sentence; nothing where none was timed."""
    timed = [r for r in norm_rows(run) if r["outcome"] == "passed" and _drawable(r["copy_share"])]
    if not timed:
        return ""
    best = max(timed, key=lambda row: row["copy_share"])
    kernels = notation.count(len({(r["operation"], r["provider"]) for r in timed}), "norm kernel")
    return f"Of {kernels} {best['operation']} comes nearest to the speed of a copy: {hint(best)}."
