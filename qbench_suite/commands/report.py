"""``qbench report``: write the reports of a run again."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qbench_suite.report.run import Run

#: Cases cut off that are named.
_NAMED = 5


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand ``report``."""
    parser = commands.add_parser(
        "report",
        help="write the reports of a run again: texts and one HTML page",
        description="Write the reports of a run again from its journals, finished or not.",
    )
    parser.add_argument(
        "results_run",
        metavar="RUN",
        help="a run's folder, its name under results/, or latest",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="FOLDER",
        help="folder of the runs (default results)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the HTML page here, and nothing else"
    )
    parser.add_argument(
        "--open",
        choices=("yes", "no"),
        default="no",
        help="show the page in the browser (default no)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from qbench_suite.report.run import Run

    run = Run.read(_folder(options.results_run, options.results))
    for line in _left_out(run):
        print(line, file=sys.stderr)
    if not run.tables:
        print(f"no case has been measured yet in {run.folder}", file=sys.stderr)
        return 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        written = _write(run, options.out)
    texts = [path for path in written if path.suffix == ".txt"]
    if texts:
        print(f"{len(texts)} comparison_report.txt under {run.folder}")
    for path in written[len(texts) :]:
        print(path)
    for warning in caught:
        print(warning.message, file=sys.stderr)
    if options.open == "yes" and written and written[-1].suffix == ".html":
        import webbrowser

        webbrowser.open(written[-1].resolve().as_uri())
    return 0


def _left_out(run: Run) -> list[str]:
    """Lines on what the reports of ``run`` do not hold: broken lines, cases cut off."""
    from qbench_suite.report import notation

    lines = []
    if broken := run.contents.broken_lines:
        lines.append(f"{notation.count(broken, 'broken line')} of the journals left out")
    if cut := sorted(run.contents.in_flight):
        more = ", …" if len(cut) > _NAMED else ""
        cases = notation.count(len(cut), "case")
        lines.append(f"{cases} began and did not end: {', '.join(cut[:_NAMED])}{more}")
    return lines


def _write(run: Run, out: Path | None) -> list[Path]:
    """The files written for ``run``; raises ``ResultsError`` where they cannot be."""
    from qbench_suite.errors import ResultsError
    from qbench_suite.report import missing_libraries, write_page, write_reports_of

    if out is None:
        return write_reports_of(run)
    if missing := missing_libraries():
        raise ResultsError(
            f"The HTML page is made with {missing}; it is not installed. "
            "Install it: pip install 'qbench-suite[report]'."
        )
    return [write_page(run, out)]


def _folder(name: str, results: Path) -> Path:
    """The folder of the run ``name``: a path, a name under ``results``, or the latest there."""
    from qbench_suite.errors import ResultsError

    runs = sorted({path.parent for path in results.glob("*/journal-*.jsonl")}, key=_age)
    if name == "latest" and runs:
        return runs[-1]
    for folder in (results / name, Path(name)):
        if any(folder.glob("journal-*.jsonl")):
            return folder
    known = ", ".join(run.name for run in runs[-5:]) or "none"
    raise ResultsError(
        f"qbench report takes a run that has a journal; {name!r} has none, neither under {results} "
        f"nor as a folder. Runs under {results}: {known}. Name one of them, or give --results."
    )


def _age(folder: Path) -> float:
    return max(path.stat().st_mtime for path in folder.glob("journal-*.jsonl"))
