"""Recorder: the folder of a run and what is written there: journal, tables."""

from __future__ import annotations

import datetime
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench_suite.errors import ResultsError

if TYPE_CHECKING:
    from qbench_suite.results import Journal, JournalContents, Row


#: Settings that rows of one run share, and the option of each.
_SETTINGS = {
    "seed": "--qbench-seed",
    "batch": "--qbench-batch",
    "device": "--qbench-device",
    "dataset": "--qbench-data",
    "roles": "--qbench-role",
    "images": "--qbench-images",
    "eval_batch": "--qbench-eval-batch",
    "layerwise": "--qbench-layerwise",
    "integer_calibration": "--qbench-integer-calibration",
    "compliance": "--qbench-compliance",
}


def run_folder(config: pytest.Config) -> Path:
    """The folder of this run: named by option, by the run that is resumed, or by the time."""
    results: Path = config.getoption("qbench_results") or config.rootpath / "results"
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        return results / str(worker["qbench_run"])
    resumed = config.getoption("qbench_resume")
    if resumed:
        return _existing_run(results, resumed)
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = config.getoption("qbench_run")
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*", name):
        raise pytest.UsageError(
            f"--qbench-run names a folder, in letters, digits and _ . + -; got {name!r}. Say where it "
            "lies with --qbench-results."
        )
    return results / (name or f"{now}-{os.getpid()}")


def _existing_run(results: Path, name: str) -> Path:
    runs = sorted({path.parent for path in results.glob("*/journal-*.jsonl")}, key=_age)
    folder = runs[-1] if name == "latest" and runs else results / name
    if folder not in runs:
        known = ", ".join(run.name for run in runs[-5:]) or "none"
        raise pytest.UsageError(
            f"--qbench-resume takes a run that has a journal; {folder} has none. Runs there: {known}."
        )
    return folder


def _age(folder: Path) -> float:
    return max(path.stat().st_mtime for path in folder.glob("journal-*.jsonl"))


class Recorder:
    """Writes the journal of a run, opened with its first case, and at the end its tables.

    Where the folder cannot be written any more (a full disk), the session stops with the reason;
    what is in the journal stays readable.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._journal: Journal | None = None
        self._float_models: set[str] = set()
        #: Why recording stopped before its time; empty while it works.
        self.lost = ""
        #: What the reports lack, and how to get it.
        self.remarks: list[str] = []
        #: Whether the run that is resumed has finished every case selected.
        self.complete = False
        self.folder = run_folder(config)

    @property
    def recorded(self) -> bool:
        """Whether this invocation measures: in a journal of its own, its workers', or a resumed run's."""
        config = self._config
        joins = bool(config.getoption("qbench_resume")) or _distributes(config)
        return self._journal is not None or (joins and not config.getoption("collectonly"))

    def lose(self, reason: str) -> None:
        """Note why recording stopped; the first reason is the one that counts."""
        self.lost = self.lost or reason

    def finished_before(self) -> set[str]:
        """Keys of the cases that a resumed run has finished; empty for a new run."""
        if not self._config.getoption("qbench_resume"):
            return set()
        return set(self.contents().rows)

    def contents(self) -> JournalContents:
        """What the journals in the folder say so far."""
        from qbench_suite.results import read_journals

        return read_journals(self.folder)

    def started(self, key: str, header: Callable[[], dict[str, Any]]) -> None:
        """Note that a case begins; the first one opens the journal with ``header()``."""
        self._guard(lambda: self._open(header).started(key))

    def finished(self, key: str, row: Row) -> None:
        """Note the row of a case that has ended."""
        journal = self._journal
        if journal and not self.lost:
            self._guard(
                lambda: journal.finished(key, row.table, row.to_json(), row.details_to_json())
            )

    def left_float(self, model: str, modules: Callable[[str], list[dict[str, Any]]]) -> None:
        """Note, once a model, its modules that no layer replaces: ``modules(model)``."""
        journal = self._journal
        if journal and model not in self._float_models:
            self._float_models.add(model)
            if left := modules(model):
                self._guard(lambda: journal.left_float(model, left))

    def finish(self) -> None:
        """Close the journal and write the tables, unless a worker of another process does."""
        from qbench_suite.results import write_tables

        if self._journal:
            self._journal.close()
        if not self.recorded or hasattr(self._config, "workerinput"):
            return
        try:
            if any(self.folder.glob("journal-*.jsonl")):
                write_tables(self.folder)
                self._write_reports()
        except ResultsError as error:
            self.lose(str(error))

    def _write_reports(self) -> None:
        """The reports of the run, and its table in the summary of a GitHub step where there is one."""
        from qbench_suite.report import ReportWarning, step_summary, write_reports

        if self._config.getoption("qbench_report") == "off":
            return
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                write_reports(self.folder)
                if path := os.environ.get("GITHUB_STEP_SUMMARY"):
                    step_summary(self.folder, Path(path))
            self.remarks = [str(w.message) for w in caught if w.category is ReportWarning]
        except ResultsError:
            raise
        except Exception as error:
            self.lose(
                f"A run ends with its reports; these were not written ({type(error).__name__}: {error}). "
                f"The tables are whole; qbench report {self.folder} builds the reports again."
            )

    def _open(self, header: Callable[[], dict[str, Any]]) -> Journal:
        from qbench_suite.results import Journal

        if self._journal is None:
            shared = hasattr(self._config, "workerinput") or _distributes(self._config)
            facts = {"run": self.folder.name, **header()}
            joins = shared or bool(self._config.getoption("qbench_resume"))
            if joins:
                self._check_settings(facts)
            self._journal = Journal(self.folder, facts, shared=shared, joins=joins)
        return self._journal

    def _check_settings(self, facts: dict[str, Any]) -> None:
        """Raise ``ResultsError`` unless a run that is joined was measured with the same settings."""
        if not any(self.folder.glob("journal-*.jsonl")):
            return
        for header in self.contents().headers:
            for name, option in _SETTINGS.items():
                before, now = header.get(name), facts.get(name)
                if name in header and before != now:
                    raise ResultsError(
                        f"A run has one value of {option}; {self.folder.name} was measured with "
                        f"{before!r}, and {now!r} is given now. Give the same, or start a new run."
                    )

    def _guard(self, write: Callable[[], None]) -> None:
        try:
            write()
        except ResultsError as error:
            self.lose(str(error))
            pytest.exit(f"\n{error}", returncode=pytest.ExitCode.INTERRUPTED)


def _distributes(config: pytest.Config) -> bool:
    return bool(config.getoption("numprocesses", None))
