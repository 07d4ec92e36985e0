"""The run as Markdown, for the summary of a GitHub step."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from qbench_suite.report import notation
from qbench_suite.report.aggregate import by_format_and_mode, worst_layers
from qbench_suite.report.findings import findings, verdict
from qbench_suite.report.integer_sections import integer_rows
from qbench_suite.report.leads import lead
from qbench_suite.report.linear_sections import linear_rows
from qbench_suite.report.norm_sections import norm_rows, percent
from qbench_suite.report.run import Record, Run

#: GitHub shows at most 1 MiB a step.
_ROWS = 300
_WORST = 10


def summary(run: Run) -> str:
    """The run in a sentence and its tables, as GitHub-flavoured Markdown; ends in an empty line."""
    lines = [f"### qbench: {escape(run.name)}", "", escape(lead(run)), ""]
    if run.models:
        found = findings(run)
        several = found if len(found) > 1 else []
        lines += [f"- {escape(f.model)}: {escape(verdict(f))}" for f in several]
        lines += [""] if several else []
        lines += _model_table(run.models)
    if "layers" in run.tables:
        if not run.models:
            lines += _format_table(run)
        lines += _worst_table(worst_layers(run, _WORST))
    lines += _integer_table(integer_rows(run))
    lines += _linear_table(linear_rows(run))
    lines += _norm_table(norm_rows(run))
    return "\n".join([*lines, ""])


def escape(text: object) -> str:
    """``text`` in one line, with everything that Markdown or HTML reads as markup made plain."""
    plain = notation.printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", plain)


def _model_table(rows: Sequence[Record]) -> Iterator[str]:
    headings = (
        "model", "policy", "weight bits", "top-1 (%) [95 %]", "Δ FP32 (points)", "KL (nat)",
        "SQNR of logits (dB)", "compliant", "slowdown (×)", "outcome",
    )  # fmt: skip
    yield from _table(headings, [_model_cells(row) for row in rows[:_ROWS]], 2)
    if len(rows) > _ROWS:
        yield from (f"{len(rows) - _ROWS:,} more in the run's tables.", "")


def _model_cells(row: Record) -> list[str]:
    drop = row["top1_drop"]
    reason = f": {notation.printable(row['reason'])[:120]}" if row["outcome"] == "error" else ""
    return [
        row["model"],
        row["policy"],
        notation.fixed(row["weight_bits"]),
        notation.with_interval(row["top1"], row["top1_low"], row["top1_high"], 1),
        notation.signed(None if drop is None else -drop),
        notation.significant(row["kl"]),
        notation.fixed(row["sqnr_db"], 1),
        _compliance(row),
        notation.fixed(row["slowdown"]),
        f"{row['outcome']}{reason}",
    ]


def _compliance(row: Record) -> str:
    off = f" ({row['violations']:,} off)" if row["violations"] else ""
    return (notation.verdict(row["compliant"]) or "not looked at") + off


def _format_table(run: Run) -> Iterator[str]:
    headings = (
        "format", "mode", "layers", "passed", "compliant", "SQNR median (dB)", "SQNR worst (dB)",
        "input bits", "slowdown (×)",
    )  # fmt: skip
    rows = [
        [
            group["format"],
            group["mode"],
            f"{group['layers']:,}",
            f"{group['passed']:,}",
            group["compliant"],
            notation.fixed(group["sqnr_db_median"]),
            notation.fixed(group["sqnr_db_worst"]),
            notation.fixed(group["input_bits"]),
            notation.fixed(group["slowdown"]),
        ]
        for group in by_format_and_mode(run)
    ]
    yield from _table(headings, rows[:_ROWS], 2)


def _worst_table(rows: Sequence[Record]) -> Iterator[str]:
    if not rows:
        return
    yield from ("Layers of lowest SQNR:", "")
    headings = ("SQNR (dB)", "model", "layer", "type", "format", "mode", "outcome")
    names = ("model", "layer", "layer_type", "format", "mode", "outcome")
    cells = [[notation.fixed(row["sqnr_db"]), *(row[name] for name in names)] for row in rows]
    yield from _table(headings, cells, 7)


def _integer_table(rows: Sequence[Record]) -> Iterator[str]:
    if not rows:
        return
    yield from ("Models in integers:", "")
    headings = (
        "model", "method", "integers only", "top-1 (%) [95 %]", "Δ FP32 (points)",
        "worst branch (dB)", "over FP32 (×)", "over BF16 (×)", "over compiled BF16 (×)", "outcome",
    )  # fmt: skip
    cells = [
        [
            row["model"],
            row["method"],
            notation.verdict(row["integer_only"]) or "not looked at",
            notation.with_interval(row["top1"], row["top1_low"], row["top1_high"], 1),
            notation.signed(None if row["top1_drop"] is None else -row["top1_drop"]),
            notation.fixed(row["branch_sqnr_db"], 1),
            notation.fixed(row["speedup_fp32"]),
            notation.fixed(row["speedup_bf16"]),
            notation.fixed(row["speedup_bf16_compiled"]),
            row["outcome"],
        ]
        for row in rows[:_ROWS]
    ]
    yield from _table(headings, cells, 3)


def _linear_table(rows: Sequence[Record]) -> Iterator[str]:
    if not rows:
        return
    yield from ("Linear layers in low precision:", "")
    headings = (
        "layer", "dtype", "size", "rows", "latency (ms)", "over FP32 (×)", "over BF16 (×)",
        "smaller (×)", "SQNR (dB)", "outcome",
    )  # fmt: skip
    cells = [
        [
            row["entry"],
            row["dtype"],
            row["size"],
            notation.integer(row["rows"]),
            notation.fixed(row["latency_ms"], 3),
            notation.fixed(row["speedup_fp32"]),
            notation.fixed(row["speedup_bf16"]),
            notation.fixed(row["compression"]),
            notation.fixed(row["sqnr_db"], 1),
            row["outcome"],
        ]
        for row in rows[:_ROWS]
    ]
    yield from _table(headings, cells, 3)


def _norm_table(rows: Sequence[Record]) -> Iterator[str]:
    if not rows:
        return
    yield from ("Normalization kernels:", "")
    headings = (
        "operation", "kernel", "shape", "dtype", "latency (ms)", "GB/s", "of a copy (%)",
        "over torch (×)", "error (ulp)", "torch's (ulp)", "outcome",
    )  # fmt: skip
    cells = [
        [
            row["operation"],
            row["provider"],
            row["shape"],
            row["dtype"],
            notation.significant(row["latency_ms"]),
            notation.fixed(row["gb_per_s"], 1),
            percent(row["copy_share"]),
            notation.fixed(row["speedup_torch"]),
            notation.fixed(row["max_ulp"]),
            notation.fixed(row["torch_max_ulp"]),
            row["outcome"],
        ]
        for row in rows[:_ROWS]
    ]
    yield from _table(headings, cells, 4)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> Iterator[str]:
    """A table whose first ``left`` columns are text; the others are flush right."""
    rule = ["---" if number < left else "---:" for number in range(len(headings))]
    cells = [[escape(cell) for cell in row] for row in rows]
    for line in (headings, rule, *cells):
        yield f"| {' | '.join(line)} |"
    yield ""
