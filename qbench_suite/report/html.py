"""The run as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

from qbench_suite.report import (
    blocks,
    figures,
    findings,
    integer_sections,
    layer_sections,
    leads,
    linear_sections,
    model_sections,
    norm_sections,
    notation,
)
from qbench_suite.report.run import Run, looked_at
from qbench_suite.report.text import report_paths

_FOLDER = resources.files("qbench_suite.report") / "templates"


def page(run: Run, *, beside: bool = True) -> str:
    """The page of ``run``; ``beside``: it lies in the run's folder, so that it links the texts there."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _read("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        _context(run, beside), script=script, script_hash=digest, style=_read("page.css")
    )


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _context(run: Run, beside: bool) -> dict[str, Any]:
    found = findings.findings(run)
    return {
        "run": run.name,
        "lead": leads.lead(run),
        "findings": [(f.model, findings.verdict(f)) for f in found] if len(found) > 1 else [],
        "tolerance": findings.TOLERANCE,
        "figures": findings.key_figures(run),
        "facts": run.facts,
        "in_flight": sorted(run.contents.in_flight),
        "broken_lines": _broken(run.contents.broken_lines),
        "sqnr_range": figures.SQNR_RANGE_DB,
        "levels": blocks.level_colours(),
        "tolerances": ", ".join(filter(None, dict.fromkeys(looked_at(r)[1] for r in run.models))),
        **_of_models(run, beside),
        **_of_layers(run),
        **_of_arithmetic(run),
    }


def _broken(lines: int) -> str:
    return notation.count(lines, "broken line") if lines else ""


def _of_models(run: Run, beside: bool) -> dict[str, Any]:
    links = {row["case"]: path.as_posix() for row, path in report_paths(run)} if beside else None
    return {
        "accuracy": model_sections.accuracy_cards(run),
        "drift": model_sections.drift_maps(run),
        "model_compliance": model_sections.compliance_matrix(run),
        "latency": model_sections.latency_strips(run),
        "models": model_sections.model_table(run, links),
        "worst_model_layers": model_sections.worst_table(run),
        "violations": model_sections.violation_table(run),
        "float": model_sections.float_table(run),
    }


def _of_layers(run: Run) -> dict[str, Any]:
    return {
        "layer_cards": layer_sections.layer_card(run),
        "layer_maps": layer_sections.layer_maps(run),
        "layer_compliance": layer_sections.compliance_matrix(run),
        "slowdown": layer_sections.slowdown_strips(run),
        "groups": layer_sections.group_table(run),
        "worst_layers": layer_sections.worst_table(run),
        "failed": layer_sections.failed_table(run),
        "formats": layer_sections.format_matrix(run),
        "quantizers": layer_sections.quantizer_table(run),
        "left_float": layer_sections.left_float_table(run),
    }


def _of_arithmetic(run: Run) -> dict[str, Any]:
    return {
        "linear_cards": linear_sections.latency_cards(run),
        "linears": linear_sections.linear_table(run),
        "norm_cards": norm_sections.bandwidth_cards(run),
        "norms": norm_sections.norm_table(run),
        "integer_accuracy": integer_sections.accuracy_strips(run),
        "integer_stages": integer_sections.stage_strips(run),
        "integer_audits": integer_sections.audit_matrix(run),
        "integers": integer_sections.integer_table(run),
    }
