"""Reports of a run: text, one HTML page, and Markdown; all of them read its tables only."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qbench_suite.report.run import Run

__all__ = ["ReportWarning", "step_summary", "write_page", "write_reports", "write_reports_of"]

#: Name of the HTML page in a run's folder.
PAGE = "report.html"


class ReportWarning(UserWarning):
    """A report could not be written, which takes nothing from the results."""


def write_reports(folder: Path) -> list[Path]:
    """Write the reports of the run in ``folder``: a text a model case, and ``report.html``.

    Returns their paths, the page last; none where the run has no row yet. Without matplotlib or
    jinja2 (extra ``report``) there is no page, and a ``ReportWarning`` says how to get it. Each file is
    replaced whole. Raises ``ResultsError`` where there is no run, or its folder cannot be written.
    """
    from qbench_suite.report.run import Run

    return write_reports_of(Run.read(folder))


def write_reports_of(run: Run) -> list[Path]:
    """``write_reports`` for a run that is read already."""
    from qbench_suite.report.text import write_texts

    if not run.tables:
        return []
    texts = write_texts(run)
    if missing := missing_libraries():
        _warn(
            f"{PAGE} needs {missing}: pip install 'qbench-suite[report]', "
            f"then qbench report {run.folder}"
        )
        return texts
    return [*texts, write_page(run, run.folder / PAGE)]


def write_page(run: Run, path: Path) -> Path:
    """Write the HTML page of ``run`` to ``path``; raises ``ResultsError`` where it cannot."""
    from qbench_suite.report.html import page
    from qbench_suite.report.writing import write

    return write(path, page(run, beside=path.resolve().parent == run.folder.resolve()))


def missing_libraries() -> str:
    """The libraries that the page needs and that are not installed, joined by ``and``."""
    names = ("jinja2", "matplotlib")
    return " and ".join(name for name in names if importlib.util.find_spec(name) is None)


def _warn(message: str) -> None:
    warnings.warn(message, ReportWarning, stacklevel=3)


def step_summary(folder: Path, path: Path) -> None:
    """Append the run in ``folder`` as Markdown to ``path``, GitHub's ``$GITHUB_STEP_SUMMARY``.

    A file that cannot be written is a ``ReportWarning``: the summary of a step is no reason to fail.
    Raises ``ResultsError`` where there is no run.
    """
    from qbench_suite.report.markdown import summary
    from qbench_suite.report.run import Run

    text = summary(Run.read(folder))
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        _warn(f"The summary of the step is not written: {path}: {error.strerror or error}")
