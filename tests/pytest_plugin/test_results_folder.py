"""Where a run writes: a folder that is not one, that is full, or that another run uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from qbench_suite import load

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Checkout

SLOW = """
import pathlib
import time


def test_layer(layer_case, measure, gate):
    gate(measure(layer_case))
    while pathlib.Path("wait").exists():
        time.sleep(0.02)
"""


@pytest.mark.parametrize("json", [(), ("--benchmark-json",)], ids=["rows alone", "with JSON"])
@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_path_that_is_a_file_is_refused(
    checkout: Checkout, place: str, json: tuple[str, ...]
) -> None:
    checkout.write("file", "")
    run = checkout.measure(f"--qbench-results={place}", *json)
    assert run.code in {pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERRUPTED}
    assert "Traceback" not in run.output
    assert "Choose another with --qbench-results" in run.output


@pytest.mark.parametrize("limit", [5_000, 9_000])
def test_a_full_disk_stops_the_run_and_leaves_its_rows(checkout: Checkout, limit: int) -> None:
    run = checkout.measure("--qbench-run=a", "--benchmark-json", file_limit=limit)
    assert run.code == pytest.ExitCode.INTERRUPTED
    assert "Traceback" not in run.output
    assert "--qbench-resume a" in run.output
    finished = len(checkout.run_folder("a").events("finished"))
    assert 0 < finished < 12
    assert len(load(checkout.folder / "results" / "a")["layers"]) == finished
    resumed = checkout.measure("--qbench-resume=a")
    assert resumed.code == pytest.ExitCode.OK
    assert f"{12 - finished} passed, {finished} deselected" in resumed.last_line
    assert len(checkout.run_folder("a").table()) == 12


def test_a_disk_too_full_for_tables_says_where_the_rows_are(checkout: Checkout) -> None:
    run = checkout.measure("--qbench-run=a", file_limit=18_000)
    assert "Traceback" not in run.output
    assert "12 passed" in run.last_line
    assert "qbench_suite.load" in run.output
    assert len(load(checkout.folder / "results" / "a")["layers"]) == 12


def test_two_runs_do_not_share_a_folder(
    checkout: Checkout, wait_until: Callable[..., object]
) -> None:
    checkout.write("cases/test_layers.py", SLOW)
    wait = checkout.write("wait", "")
    first = checkout.start(*checkout.grid, "--qbench-run=a")
    wait_until(lambda: checkout.run_folder("a").cases("started"))
    second = checkout.measure("--qbench-run=a")
    assert second.code == pytest.ExitCode.INTERRUPTED
    assert "Traceback" not in second.output
    assert f"in use by process {first.pid}" in second.output
    assert "--qbench-run" in second.output
    wait.unlink()
    assert first.code == pytest.ExitCode.OK
    assert len(checkout.run_folder("a").table()) == 12


def test_two_runs_at_once_have_folders_of_their_own(checkout: Checkout) -> None:
    started = [checkout.start(*checkout.grid) for _ in range(2)]
    assert [run.code for run in started] == [0, 0]
    assert [len(run.table()) for run in checkout.runs()] == [12, 12]


def test_results_lie_where_the_option_says(checkout: Checkout) -> None:
    checkout.measure("--qbench-results=else/where", "--qbench-run=a", "-k", "int8")
    assert len(load(checkout.folder / "else" / "where" / "a")["layers"]) == 6
    assert not checkout.runs()
