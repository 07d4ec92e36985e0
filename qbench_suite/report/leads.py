"""The sentence on top of a report: what a run comes to, whatever kinds of cases it holds."""

from __future__ import annotations

from qbench_suite.report import findings, integer_sections, linear_sections, norm_sections
from qbench_suite.report.run import Run


def lead(run: Run) -> str:
    """The run in one sentence or two; that of emulated cases, where there are any."""
    if run.models or "layers" in run.tables:
        return findings.lead(run)
    kinds = (integer_sections, linear_sections, norm_sections)
    computed = " ".join(filter(None, (kind.lead(run) for kind in kinds)))
    return computed or findings.lead(run)
