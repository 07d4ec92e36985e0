"""Bridge to pytest-benchmark: its timer, its JSON; the only module that knows it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench_suite.pytest_plugin.run import RUN

if TYPE_CHECKING:
    from qbench_suite.timing import Clock, Samples


class PedanticTimer:
    """Times by ``benchmark.pedantic``: exactly ``rounds`` calls after one warm-up."""

    def __init__(self, benchmark: Any, rounds: int) -> None:
        self._benchmark = benchmark
        self._rounds = rounds

    def __call__(
        self,
        function: Callable[[], object],
        before: Callable[[], object] | None = None,
        clock: Clock = time.perf_counter,
    ) -> Samples:
        from qbench_suite.timing import Samples

        def setup() -> None:
            if before:
                before()

        if clock is not time.perf_counter:  # pytest-benchmark takes another one from options only
            self._benchmark._timer = clock
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
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Write the axes of each case as strings, once, and seconds to the picosecond.

    pytest-benchmark cannot write objects; 17 digits of each sample, and the options, which are those
    of ``pedantic`` for every case, make up much of the file. In the folder of a run that is resumed,
    entries that are there already stay.
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
                entry.pop("options", None)
    folder = config.stash[RUN].recorder.folder
    if config.option.benchmark_json == (file := folder / "benchmark.json"):
        folder.mkdir(parents=True, exist_ok=True)
        written = {entry["fullname"] for entry in output_json["benchmarks"]}
        before = [entry for entry in _entries(file) if entry["fullname"] not in written]
        output_json["benchmarks"] = before + output_json["benchmarks"]


def _entries(file: Path) -> list[dict[str, Any]]:
    """The entries of a benchmark JSON; none where there is no whole one."""
    try:
        entries: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["benchmarks"]
    except (OSError, ValueError, KeyError):
        return []
    return entries
