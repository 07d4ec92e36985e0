"""The pytest plugin: options, parametrization, fixtures, journal, benchmark JSON, summary.

It is loaded by ``-p qbench_suite.pytest_plugin`` (the suite's ``tox.ini`` says so), early enough to
find pytest-benchmark's options before the command line is parsed. It imports torch when cases are
collected, not before.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from qbench_suite.pytest_plugin import options
from qbench_suite.pytest_plugin.bridge import (
    pytest_benchmark_update_json,
    pytest_benchmark_update_machine_info,
)
from qbench_suite.pytest_plugin.fixtures import gate, measure
from qbench_suite.pytest_plugin.run import RUN, Run
from qbench_suite.pytest_plugin.summary import summarise

__all__ = [
    "gate",
    "measure",
    "pytest_benchmark_update_json",
    "pytest_benchmark_update_machine_info",
]


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    options.load_pytest_benchmark(pluginmanager)
    options.optional_json_path(parser)
    options.add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    run = config.stash[RUN] = Run(config)
    options.prepare_pytest_benchmark(config, run.recorder.folder)
    config.pluginmanager.register(_LateHooks(run), "qbench-late-hooks")


class _LateHooks:
    """Hooks for which the order of registration counts.

    They see each ``conftest.py`` there is, and wrap what pytest-benchmark does at the end, but not
    what the terminal does.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def pytest_plugin_registered(self, plugin: object, plugin_name: str) -> None:
        if plugin_name != __name__:
            self._run.offer(plugin)

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, Any, Any]:
        recorder = self._run.recorder
        recorder.finish()
        try:
            return (yield)
        except OSError as error:
            recorder.lose(f"The benchmark JSON is written last; it is not: {error}. The rows are.")
        finally:
            if recorder.lost and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.INTERRUPTED
            elif recorder.complete and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
                session.exitstatus = pytest.ExitCode.OK


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, Any, Any]:
    with session.config.stash[RUN].collecting():
        return (yield)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    run = metafunc.config.stash[RUN]
    for fixture in options.CASE_FIXTURES & set(metafunc.fixturenames):
        cases = run.cases(fixture)
        marks = {name: getattr(pytest.mark, name) for case in cases for name in case.marks}
        params = [
            pytest.param(case, id=case.id, marks=[marks[name] for name in case.marks])
            for case in cases
        ]
        metafunc.parametrize(fixture, params)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[RUN].arrange(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, Any, Any]:
    with session.config.stash[RUN].counting(session):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, Any]:
    report = yield
    item.config.stash[RUN].note(item, report)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(
    report: pytest.TestReport, config: pytest.Config
) -> tuple[str, str, str] | None:
    return config.stash[RUN].bar.status(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    run = terminalreporter.config.stash[RUN]
    summarise(terminalreporter, run.recorder, exitstatus == pytest.ExitCode.INTERRUPTED)
    for problem in run.problems:
        line = f"not in use: {problem.plugin}: {problem.reason} {problem.remedy}"
        terminalreporter.write_line(line, yellow=True)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Xdist workers write their journals into the folder of the run that started them."""
    node.workerinput["qbench_run"] = node.config.stash[RUN].recorder.folder.name
