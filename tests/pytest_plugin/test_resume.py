"""The journal: what a run that ended early leaves, and how the next one goes on."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Checkout, RunFolder

#: A case file whose fifth case waits while a file is there.
SLOW = """
import pathlib
import time


def test_layer(layer_case, measure, gate):
    row = measure(layer_case)
    while layer_case.id == "tiny-fp8_e4m3-tensor-1" and pathlib.Path("wait").exists():
        time.sleep(0.02)
    gate(row)
"""


@pytest.fixture
def interrupted(
    checkout: Checkout, wait_until: Callable[..., object]
) -> Callable[[signal.Signals], RunFolder]:
    """Ends a run by a signal while its fifth case runs."""

    def interrupt(number: signal.Signals) -> RunFolder:
        checkout.write("cases/test_layers.py", SLOW)
        wait = checkout.write("wait", "")
        run = checkout.start(*checkout.grid, "--qbench-run=a", "--benchmark-json")
        folder = checkout.run_folder("a")
        wait_until(lambda: len(folder.cases("started")) == 5)
        time.sleep(0.3)
        code = run.kill(number)
        print(run.output)
        assert code == (
            -signal.SIGKILL if number == signal.SIGKILL else pytest.ExitCode.INTERRUPTED
        )
        assert len(folder.cases("finished")) == 4
        wait.unlink()
        return folder

    return interrupt


@pytest.mark.parametrize("name", ["a", "latest"])
def test_a_killed_run_is_resumed_with_the_rest_and_no_more(
    checkout: Checkout, interrupted: Callable[[signal.Signals], RunFolder], name: str
) -> None:
    folder = interrupted(signal.SIGKILL)
    (in_flight,) = set(folder.cases("started")) - set(folder.cases("finished"))
    run = checkout.measure(f"--qbench-resume={name}")
    assert run.code == pytest.ExitCode.OK
    assert "8 passed, 4 deselected" in run.last_line
    assert Counter(folder.cases("finished")).most_common(1)[0][1] == 1
    assert Counter(folder.cases("started")) == Counter(folder.cases("finished")) + Counter(
        [in_flight]
    )
    assert len(folder.table()) == 12
    assert checkout.runs() == [folder]


def test_rows_of_a_killed_run_can_be_read_before_it_is_resumed(
    interrupted: Callable[[signal.Signals], RunFolder],
) -> None:
    from qbench_suite import load

    folder = interrupted(signal.SIGKILL)
    assert not list(folder.path.glob("layers.*"))
    assert len(load(folder.path)["layers"]) == 4


def test_ctrl_c_keeps_rows_and_writes_tables(
    checkout: Checkout, interrupted: Callable[[signal.Signals], RunFolder]
) -> None:
    folder = interrupted(signal.SIGINT)
    assert len(folder.table()) == 4
    assert checkout.measure("--qbench-resume=a").code == pytest.ExitCode.OK
    assert len(folder.table()) == 12


def test_ctrl_c_says_how_to_go_on(checkout: Checkout, wait_until: Callable[..., object]) -> None:
    checkout.write("cases/test_layers.py", SLOW)
    checkout.write("wait", "")
    run = checkout.start(*checkout.grid, "--qbench-run=a")
    wait_until(lambda: len(checkout.run_folder("a").cases("started")) == 5)
    time.sleep(0.3)
    run.kill(signal.SIGINT)
    assert "--qbench-resume a" in run.output


def test_a_finished_run_has_nothing_to_resume(checkout: Checkout) -> None:
    checkout.measure("--qbench-run=a")
    folder = checkout.run_folder("a")
    before = folder.events("finished")
    run = checkout.measure("--qbench-resume=a")
    assert run.code == pytest.ExitCode.OK
    assert "has finished" in run.output
    assert folder.events("finished") == before
    assert len(folder.table()) == 12


def test_a_run_that_finished_elsewhere_measures_what_is_new_to_it(checkout: Checkout) -> None:
    checkout.measure("--qbench-run=a", "-k", "int8")
    run = checkout.measure("--qbench-resume=a", "-k", "not channel")
    assert run.code == pytest.ExitCode.OK
    assert len(checkout.run_folder("a").table()) == 9


@pytest.mark.parametrize("name", ["no-such-run", "latest", "../a"])
def test_what_cannot_be_resumed_is_said_at_once(checkout: Checkout, name: str) -> None:
    run = checkout.measure(f"--qbench-resume={name}")
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert "Runs there: none" in run.output
    assert "Traceback" not in run.output


def test_a_name_that_is_near_is_answered_by_the_runs_there_are(checkout: Checkout) -> None:
    checkout.measure("--qbench-run=monday", "-k", "int8-tensor-0")
    run = checkout.measure("--qbench-resume=munday")
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert "monday" in run.output


def test_latest_is_the_run_that_was_written_last(checkout: Checkout) -> None:
    for name in ("z", "a"):
        checkout.measure(f"--qbench-run={name}", "-k", "int8-tensor-0")
        time.sleep(0.02)
    checkout.measure("--qbench-resume=latest", "-k", "int8-tensor")
    assert len(checkout.run_folder("a").table()) == 3
    assert len(checkout.run_folder("z").table()) == 1


def test_a_case_that_failed_is_not_measured_again(checkout: Checkout) -> None:
    gates = checkout.write("gates.csv", "table,format,mode,what,min_sqnr_db\nlayers,*,*,*,99\n")
    first = checkout.measure("--qbench-run=a", f"--qbench-gates={gates}")
    assert first.code == pytest.ExitCode.TESTS_FAILED
    again = checkout.measure("--qbench-resume=a", f"--qbench-gates={gates}")
    assert "12 deselected" in again.last_line
    assert set(checkout.run_folder("a").table().outcome) == {"failed"}
