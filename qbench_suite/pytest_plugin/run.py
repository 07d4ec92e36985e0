"""Run: the state of one pytest invocation: plugins, engine, recorder, progress."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench_suite.errors import QBenchError, SelectionError
from qbench_suite.pytest_plugin import options
from qbench_suite.pytest_plugin.progress import ProgressBar
from qbench_suite.pytest_plugin.recorder import Recorder

if TYPE_CHECKING:
    from qbench_suite.engine import Engine
    from qbench_suite.loading import Problem
    from qbench_suite.manager import Manager
    from qbench_suite.results import Row
    from qbench_suite.timing import Timer

RUN: pytest.StashKey[Run] = pytest.StashKey()
#: A measured case, its row, and the extra_info of its benchmark.
MEASURED: pytest.StashKey[tuple[Any, Row, dict[str, Any]]] = pytest.StashKey()
#: Options that select cases, by table; those of layers are for all others too.
_WIDER = {
    "layers": "--qbench-models, --qbench-formats, --qbench-modes, --qbench-layers or --qbench-policies",
    "linears": "--qbench-linears or --qbench-formats",
    "integers": "--qbench-integers, --qbench-models or --qbench-formats",
    "norms": "--qbench-norms, --qbench-norm-shapes, --qbench-norm-dtypes or --qbench-formats",
}
#: A run without plugins of the suite does not care for the order of these.
_LAST = (1, "", ())


class Run:
    """One run; nothing heavy is imported and nothing is written before cases are collected."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._offered: list[object] = []
        self._mistake = ""
        self.recorder = Recorder(config)
        self.bar = ProgressBar(self._uncaptured)

    def offer(self, plugin: object) -> None:
        """Hand a pytest plugin over, in case it holds hooks of the suite (a ``conftest.py`` may)."""
        self._offered.append(plugin)
        if "manager" in self.__dict__:
            try:
                self._take_offers(self.manager)
                self.manager.check()
            except QBenchError as error:
                self._mistake = str(error)

    @functools.cached_property
    def manager(self) -> Manager:
        """The suite's plugins; raises ``UsageError`` for those that make a run meaningless."""
        from qbench_suite.manager import default_manager
        from qbench_suite.registry import Owner

        config = self._config
        files = [*config.getini("qbench_plugins"), *config.getoption("qbench_plugin")]
        manager = default_manager(
            disabled=config.getoption("qbench_disable_plugin"), files=map(Path, files)
        )
        self._take_offers(manager)
        # A file that is asked for by name is not to be missed in silence.
        named = {str(Owner(str(path))) for path in files}
        strict = config.getoption("qbench_strict_plugins")
        try:
            manager.check(strict=strict or any(p.plugin in named for p in manager.problems))
        except QBenchError as error:
            raise pytest.UsageError(str(error)) from None
        return manager

    @property
    def problems(self) -> list[Problem]:
        """Plugins that are not in use, and why; none before plugins are loaded."""
        return self.manager.problems if "manager" in self.__dict__ else []

    @functools.cached_property
    def engine(self) -> Engine:
        """The engine, with this run's settings; from here on freed memory stays with the process."""
        from qbench_suite.engine import Engine
        from qbench_suite.results import Gates
        from qbench_suite.timing import keep_freed_blocks

        keep_freed_blocks()
        gates = Gates.read(self._config.getoption("qbench_gates"))
        settings = options.settings(self._config, self.recorder.folder)
        engine = Engine(self.manager, settings, gates)
        engine.progress = self.bar.images
        return engine

    def cases(self, fixture: str) -> list[Any]:
        """The cases that a fixture is parametrized with; none after a mistake of the user's."""
        if self._mistake:
            return []
        try:
            options.require_pytest_benchmark(self._config)
            cases = self._select(fixture)
        except (QBenchError, pytest.UsageError) as error:
            self._mistake = str(error)
            if hasattr(self._config, "workerinput"):  # a worker's collection is told by its errors
                raise pytest.Collector.CollectError(self._mistake) from None
            return []
        for name in sorted({name for case in cases for name in case.marks}):
            self._config.addinivalue_line("markers", f"{name}: cases of the format {name}")
        return cases

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Ends pytest after collection where a mistake of the user's left the grid unknown.

        What is raised while pytest collects, it takes for a mistake in a test file.
        """
        try:
            yield
        finally:
            if self._mistake:
                raise pytest.UsageError(self._mistake)

    def arrange(self, items: list[pytest.Item]) -> None:
        """Sort cases so that each model is loaded once; leave out what a resumed run has finished."""
        items[:] = [item for item in items if not _stands_for_none(item)]
        done = self.recorder.finished_before()
        left_out = [item for item in items if (case := case_of(item)) and case.key in done]
        if left_out:
            self._config.hook.pytest_deselected(items=left_out)
            self.recorder.complete = len(left_out) == len(items)
        dropped = set(left_out)
        items[:] = sorted((i for i in items if i not in dropped), key=_order)

    def counting(self, session: pytest.Session) -> AbstractContextManager[None]:
        """The progress bar around the test loop, on a terminal that is not asked for each test."""
        config = self._config
        worker = hasattr(config, "workerinput")
        shown = not worker and config.getoption("verbose") <= 0 and bool(session.items)
        return self.bar.counting(
            len(session.items) if shown and config.get_terminal_writer().hasmarkup else 0
        )

    def measure(self, case: Any, timer: Timer) -> Row:
        """Measure ``case``, noted in the journal before it starts.

        One that is none for this machine is skipped without a line, so that a run that is resumed where
        it is one has it still to do.
        """
        if reason := self.engine.unavailable(case):
            pytest.skip(reason)
        self.recorder.started(case.key, self.machine_info)
        if case.table in ("layers", "models"):
            self.recorder.left_float(case.model, self._left_float)
        return self.engine.run(case, timer)

    def note(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Write the row of a measured case, with its outcome, to the journal and the benchmark."""
        if report.when != "call" or MEASURED not in item.stash:
            return
        case, row, extra_info = item.stash[MEASURED]
        if report.failed and row.outcome == "passed":
            row.outcome, row.reason = "failed", _reason(report)
        extra_info.update(row.to_extra_info())
        self.recorder.finished(case.key, row)

    @functools.cache
    def machine_info(self) -> dict[str, Any]:
        """Facts for the journal's header and the benchmark JSON."""
        from qbench_suite.engine.machine import machine_info

        info = machine_info(self.manager, self.engine.settings)
        return info | {"arguments": options.arguments(self._config)}

    def _uncaptured(self) -> AbstractContextManager[None]:
        capture = self._config.pluginmanager.getplugin("capturemanager")
        return capture.global_and_fixture_disabled() if capture else nullcontext()

    def _left_float(self, model: str) -> list[dict[str, Any]]:
        modules = self.engine.pool.get(model).float_modules
        return [{"module": n, **asdict(m)} for n, m in modules.items() if m.loses_coverage]

    def _select(self, fixture: str) -> list[Any]:
        chosen = options.selection(self._config)
        table = f"{fixture.removesuffix('_case')}s"
        if not chosen.concerns(table):
            return []
        cases: list[Any] = getattr(self.engine, f"{fixture}s")(chosen)
        if not cases and chosen.asks_for(table):
            raise SelectionError(
                f"A grid holds cases; the options select no {fixture.replace('_', ' ')}. Widen "
                f"{_WIDER.get(table, _WIDER['layers'])}."
            )
        return cases

    def _take_offers(self, manager: Manager) -> None:
        from qbench_suite.registry import Owner

        for plugin in self._offered:
            if manager.has_hooks(plugin):
                file = getattr(plugin, "__file__", None)
                manager.register(plugin, Owner(str(file or plugin)))
        self._offered.clear()


def _reason(report: pytest.TestReport) -> str:
    """What a failed test raised, in a line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return (crash.message if crash else str(report.longrepr)).strip().partition("\n")[0]


def case_of(item: pytest.Item) -> Any:
    """The grid case that an item measures; None for other tests."""
    return next((case for case in _parameters(item) if hasattr(case, "table")), None)


def _stands_for_none(item: pytest.Item) -> bool:
    """Whether ``item`` is what pytest puts in the place of an empty list of cases."""
    return bool(_parameters(item)) and case_of(item) is None


def _parameters(item: pytest.Item) -> list[Any]:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return [params[fixture] for fixture in options.CASE_FIXTURES if fixture in params]


def _order(item: pytest.Item) -> tuple[int, str, Any]:
    """Cases first: formats, then layers, models, quantizers, each sorted by its axes."""
    case = case_of(item)
    return (0, case.table, case) if case else _LAST
