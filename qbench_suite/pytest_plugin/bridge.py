"""Bridge to pytest-benchmark: its timer, its JSON; the only module that knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from qbench_suite.pytest_plugin.run import RUN
from qbench_suite.timing import Samples


class PedanticTimer:
    """Times by ``benchmark.pedantic``: exactly ``rounds`` calls after one warm-up."""

    def __init__(self, benchmark: Any, rounds: int) -> None:
        self._benchmark = benchmark
        self._rounds = rounds

    def __call__(
        self, function: Callable[[], object], before: Callable[[], object] | None = None
    ) -> Samples:
        def setup() -> None:
            if before:
                before()

        self._benchmark.pedantic(
            function, setup=setup, rounds=self._rounds, warmup_rounds=1, iterations=1
        )
        stats = self._benchmark.stats
        return Samples(tuple(stats.stats.data) if stats else ())


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Say with what the suite measured."""
    machine_info["qbench"] = config.stash[RUN].machine_info()


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Write the axes of each case as strings, and seconds to the picosecond.

    pytest-benchmark cannot write objects, and 17 digits of each sample make up much of the file.
    """
    for entry in output_json["benchmarks"]:
        stats = entry["stats"]
        stats.update({k: round(v, 12) for k, v in stats.items() if isinstance(v, float)})
        stats["data"] = [round(v, 12) for v in stats.get("data", ())]
        params = entry.get("params")
        for name, case in list((params or {}).items()):
            if hasattr(case, "__dataclass_fields__"):
                del params[name]
                params.update(asdict(case))
