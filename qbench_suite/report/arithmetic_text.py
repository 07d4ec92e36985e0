"""Text reports of what computes in low precision: linear layers, models in integers."""

from __future__ import annotations

from collections.abc import Iterator

from qbench_suite.report import notation, text_sections
from qbench_suite.report.integer_sections import integer_rows
from qbench_suite.report.linear_sections import linear_rows
from qbench_suite.report.run import Record, Run, command, records
from qbench_suite.report.shell import command_lines
from qbench_suite.report.text_table import Column, fixed, heading, pair, significant, table, words


def linear_report(run: Run) -> str:
    """Every linear case, a table a size of weights; empty without any."""
    rows = linear_rows(run)
    lines: list[str] = []
    for size in dict.fromkeys(row["size"] for row in rows):
        lines += heading(f"Linear layers, weights {size or 'of unknown size'}")
        lines += table(_LINEAR, [row for row in rows if row["size"] == size])
    failed = [row for row in rows if row["outcome"] != "passed"]
    if failed:
        lines += heading("Not passed")
    for row in failed:
        lines += ["", *pair("case", row["case"]), *pair("reason", row["reason"])]
        lines += command_lines(command("linears", row))
    return _text(lines)


_LINEAR = [
    words("layer", "entry"),
    words("dtype", "dtype"),
    Column("rows", lambda row: notation.integer(row["rows"])),
    fixed("ms", "latency_ms", 3),
    fixed("x FP32", "speedup_fp32"),
    fixed("x BF16", "speedup_bf16"),
    fixed("smaller", "compression"),
    fixed("GB/s", "gb_per_s", 1),
    fixed("SQNR dB", "sqnr_db", 1),
    significant("max error", "max_abs_err"),
    words("kernel", "kernel"),
    words("outcome", "outcome"),
]


def integer_report(run: Run) -> str:
    """Every integer case with its audits and its steps; empty without any."""
    stages: dict[str, list[Record]] = {}
    for stage in records(run.tables.get("integer_stages")):
        stages.setdefault(stage["case"], []).append(stage)
    rows = integer_rows(run)
    return _text([line for row in rows for line in _integer(row, stages.get(row["case"], []))])


def _integer(row: Record, stages: list[Record]) -> Iterator[str]:
    title = f"{row.get('full_model', row['model'])} in integers by {row['method']}"
    yield from heading(notation.printable(title))
    yield from pair("outcome", row["outcome"])
    yield from pair("reason", row["reason"])
    yield from pair("blocks", notation.integer(row["blocks"]))
    yield from pair("stay float", row["refused"])
    yield from pair("calibration", row["calibration"])
    yield from pair("  seconds", notation.fixed(row["calibration_s"], 1))
    yield from pair("integers only", notation.verdict(row["integer_only"]))
    yield from pair("audits", row["audits"])
    yield from pair("worst branch", _sized(row["branch_sqnr_db"], "dB", row["worst_block"]))
    yield from command_lines(command("integers", row))
    yield from text_sections.accuracy(row)
    yield from _latencies(row)
    if stages:
        yield from heading("Steps, each on what the float block reads")
        yield from table(_STAGES, sorted(stages, key=lambda stage: stage["order"] or 0))


_STAGES = [
    words("block", "block"),
    words("step", "stage"),
    fixed("SQNR dB", "sqnr_db"),
    fixed("cosine", "cosine", 5),
    significant("mse", "mse"),
    significant("max error", "max_abs_err"),
]


def _latencies(row: Record) -> Iterator[str]:
    if row["latency_ms"] is None:
        return
    yield from heading(f"Latency of {row['timed_block'] or 'a block'}")
    yield from pair("in integers", _sized(row["latency_ms"], "ms"))
    for label, name in (("FP32", "fp32"), ("BF16", "bf16"), ("BF16, compiled", "bf16_compiled")):
        speedup = notation.fixed(row[f"speedup_{name}"])
        times = f"{speedup} times as long" if speedup else ""
        yield from pair(label, _sized(row[f"block_{name}_ms"], "ms", times))
    yield from pair("whole model", _sized(row["model_ms"], "ms"))
    speedup = notation.fixed(row["model_speedup"])
    times = f"{speedup} times as long" if speedup else ""
    yield from pair("  in FP32", _sized(row["model_fp32_ms"], "ms", times))


def _sized(value: float | None, unit: str, note: str = "") -> str:
    number = notation.fixed(value)
    return f"{number} {unit}" + (f", {note}" if note else "") if number else ""


def _text(lines: list[str]) -> str:
    """Lines without the empty ones at the beginning, each ended."""
    return "\n".join(lines).lstrip("\n") + "\n" if lines else ""
