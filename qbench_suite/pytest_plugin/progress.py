"""A progress bar with the time left, in place of dots, where the output is a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

_REDRAW_SECONDS = 0.5


class ProgressBar:
    """Counts tests on a terminal; without one, or without rich, it leaves pytest's dots alone.

    ``uncaptured``: in its context what is written reaches the terminal, while a test is running too.
    """

    def __init__(self, uncaptured: Callable[[], AbstractContextManager[None]]) -> None:
        self._uncaptured = uncaptured
        self._bar: Any = None
        self._task: Any = None
        self._images: Any = None
        self._drawn = 0.0
        self._failed = 0

    @contextmanager
    def counting(self, total: int) -> Iterator[None]:
        """Show the bar for ``total`` tests; none for 0."""
        if not total or not (progress := _rich_progress()):
            yield
            return
        # Tests capture the terminal, so the bar is drawn between them only, never by a thread.
        self._bar = progress
        self._bar.start()
        self._task = self._bar.add_task("cases", total=total, failed=0)
        try:
            yield
        finally:
            self._bar.refresh()
            self._bar.stop()
            self._bar = None

    def images(self, case: str, done: int, total: int) -> None:
        """Show how far the case at hand is; drawn around the capture of its output, twice a second."""
        if self._bar is None:
            return
        if self._images is None:
            self._images = self._bar.add_task("images", total=total, failed="")
        self._bar.update(self._images, description=case, completed=done, total=total)
        now = time.monotonic()
        if now - self._drawn > _REDRAW_SECONDS and done < total:
            self._drawn = now
            with self._uncaptured():
                self._bar.refresh()

    def status(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Count a test that has ended; while the bar is shown no test leaves a letter."""
        if self._bar is None:
            return None
        self._failed += report.failed
        if self._images is not None and report.when == "teardown":
            self._bar.remove_task(self._images)
            self._images = None
        self._bar.update(self._task, advance=report.when == "teardown", failed=self._failed)
        self._bar.refresh()
        counted = report.when == "call" or not report.passed
        return (report.outcome if counted else "", "", "")


def _rich_progress() -> Any:
    try:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
    except ImportError:
        return None
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("failed {task.fields[failed]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        auto_refresh=False,
    )
