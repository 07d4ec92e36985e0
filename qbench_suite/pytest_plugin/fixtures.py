"""Fixtures for case files: they ask, the engine computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qbench_suite.pytest_plugin.run import MEASURED, RUN


@pytest.fixture
def measure(request: pytest.FixtureRequest, benchmark: Any) -> Callable[[Any], Any]:
    """Measure a case: ``measure(case)`` runs it in the engine and returns its row.

    The row goes to the journal and, as plain JSON types, to the ``extra_info`` of the benchmark JSON.
    """
    from qbench_suite.pytest_plugin.bridge import PedanticTimer

    run = request.config.stash[RUN]

    def measure_case(case: Any) -> Any:
        timer = PedanticTimer(benchmark, request.config.getoption("qbench_rounds"))
        row = run.measure(case, timer)
        request.node.stash[MEASURED] = (case, row, benchmark.extra_info)
        return row

    return measure_case


@pytest.fixture
def gate() -> Callable[[Any], None]:
    """Fail the test, with the row's reason and no traceback, unless the row's outcome is passed."""

    def check(row: Any) -> None:
        if row.outcome != "passed":
            pytest.fail(row.reason, pytrace=False)

    return check
