"""Reports as plain text: a model case against its float original, and what computes by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qbench_suite.report import arithmetic_text, norm_text, notation, text_sections
from qbench_suite.report.run import Record, Run, command
from qbench_suite.report.shell import command_lines
from qbench_suite.report.text_table import pair
from qbench_suite.report.writing import folder_names, write

FILE = "comparison_report.txt"

_FACTS = ("machine", "device", "threads", "suite_version", "torch_version", "timm_version")
_MORE_FACTS = ("python_version", "started_at", "plugins")


def write_texts(run: Run) -> list[Path]:
    """Write ``MODEL/POLICY/comparison_report.txt`` for each model case; raises ``ResultsError``.

    Linear, integer and norm cases have a report a kind: ``linear_report.txt``, ``integer_report.txt``,
    ``norm_report.txt``.
    """
    texts = {path: comparison_report(run, row) for row, path in report_paths(run)}
    texts[Path("linear_report.txt")] = arithmetic_text.linear_report(run)
    texts[Path("integer_report.txt")] = arithmetic_text.integer_report(run)
    texts[Path("norm_report.txt")] = norm_text.norm_report(run)
    return [write(run.folder / path, text) for path, text in texts.items() if text]


def report_paths(run: Run) -> list[tuple[Record, Path]]:
    """Each model case with the path of its report within the run's folder."""
    models = folder_names(row["model"] for row in run.models)
    policies = folder_names(row["policy"] for row in run.models)
    return [(row, Path(models[row["model"]], policies[row["policy"]], FILE)) for row in run.models]


def comparison_report(run: Run, row: Record) -> str:
    """The report on the model case ``row``: at most 120 columns, ends in a newline."""
    layers = run.layers_of.get(row["case"], [])
    violations = run.violations_of.get(row["case"], [])
    lines = [
        *_header(run, row),
        *text_sections.accuracy(row),
        *text_sections.cost(row),
        *text_sections.coverage(row, layers),
        *text_sections.compliance(row, violations),
        *text_sections.layers(layers),
        *text_sections.failures(row, violations),
    ]
    return "\n".join(lines) + "\n"


def _header(run: Run, row: Record) -> Iterator[str]:
    title = notation.printable(
        f"{row.get('full_model', row['model'])} converted by {row['policy']}"
    )
    yield from pair("comparison of", title)
    yield from pair("outcome", row["outcome"])
    yield from pair("reason", row["reason"])
    yield ""
    yield from pair("policy hash", row["policy_hash"])
    yield from pair("formats", row["formats"])
    yield from pair("modes", row["modes"])
    yield from pair("activation scales", row["scales"])
    yield from pair("range rules", row["range_rules"])
    yield from pair("calibration", row["calibration"])
    yield from pair("dataset", row["dataset"])
    yield from pair("images", _images(row))
    yield from pair("left out", row["skipped"])
    yield from pair("preprocessing", row["preprocessing"])
    yield from pair("seed", row["seed"])
    yield ""
    facts = run.facts | {name: row[name] for name in (*_FACTS, *_MORE_FACTS) if row.get(name)}
    for name in (*_FACTS, *_MORE_FACTS):
        yield from pair(name.removesuffix("_version").replace("_", " "), facts.get(name))
    yield from pair("run", run.name)
    yield ""
    yield from command_lines(command("models", row))


def _images(row: Record) -> str:
    parts = [
        f"{notation.integer(row['images'])} evaluated" if row["images"] is not None else "",
        f"{row['skipped_images']} left out" if row["skipped_images"] else "",
        f"in batches of {row['batch']}" if row["batch"] is not None else "",
    ]
    return ", ".join(filter(None, parts))
