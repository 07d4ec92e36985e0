"""Text report of normalization kernels."""

from __future__ import annotations

from qbench_suite.report import notation
from qbench_suite.report.norm_sections import norm_rows, percent
from qbench_suite.report.run import Run, command
from qbench_suite.report.shell import command_lines
from qbench_suite.report.text_table import Column, fixed, heading, pair, significant, table, words


def norm_report(run: Run) -> str:
    """Every norm case, a table an operation; empty without any."""
    rows = norm_rows(run)
    lines: list[str] = []
    for operation in dict.fromkeys(row["operation"] for row in rows):
        lines += heading(operation)
        lines += table(_COLUMNS, [row for row in rows if row["operation"] == operation])
    failed = [row for row in rows if row["outcome"] != "passed"]
    if failed:
        lines += heading("Not passed")
    for row in failed:
        lines += ["", *pair("case", row["case"]), *pair("reason", row["reason"])]
        lines += command_lines(command("norms", row))
    return "\n".join(lines).lstrip("\n") + "\n" if lines else ""


_COLUMNS = [
    words("kernel", "provider"),
    words("shape", "shape"),
    words("dtype", "dtype"),
    significant("ms", "latency_ms"),
    fixed("GB/s", "gb_per_s", 1),
    Column("% copy", lambda row: percent(row["copy_share"])),
    fixed("x torch", "speedup_torch"),
    fixed("ulp", "max_ulp"),
    fixed("torch's", "torch_max_ulp"),
    words("output", "worst_output"),
    Column("same bits", lambda row: notation.verdict(row["deterministic"])),
    words("cache", "cache"),
    words("outcome", "outcome"),
]
