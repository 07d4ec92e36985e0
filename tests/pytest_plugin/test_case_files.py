"""Case files of others, other tests beside them, and pytest's own options."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Checkout

STRICT = """
import pytest


def test_error(layer_case, measure):
    row = measure(layer_case)
    assert row.sqnr_db > 35, "too coarse for us"


def test_beside():
    pass


@pytest.mark.xfail(strict=True)
def test_beside_fails():
    assert False
"""
OTHERS = """
import pytest


def test_skips(layer_case, measure):
    if layer_case.format == "int8":
        pytest.skip("not ours")
    measure(layer_case)


def test_raises(format_case, measure):
    measure(format_case)
    raise RuntimeError("after the measurement")
"""


def test_a_row_has_the_outcome_of_its_own_test(checkout: Checkout) -> None:
    checkout.write("cases/test_own.py", STRICT)
    run = checkout.pytest("cases/test_own.py", *checkout.grid[1:], "--benchmark-json")
    assert "6 failed, 7 passed, 1 xfailed" in run.last_line
    folder = checkout.run_folder()
    table = folder.table().set_index("case")
    assert len(table) == 12
    assert (table.outcome == "failed").tolist() == (table.format == "fp8_e4m3").tolist()
    assert "too coarse for us" in "".join(table.reason)
    for entry in folder.benchmarks():
        assert entry["extra_info"]["outcome"] == table.loc[entry["param"]].outcome


def test_what_a_test_skips_has_no_row_and_what_raises_has_one(checkout: Checkout) -> None:
    checkout.write("cases/test_own.py", OTHERS)
    run = checkout.pytest("cases/test_own.py", *checkout.grid[1:])
    assert "10 failed, 6 passed, 6 skipped" in run.last_line
    assert len(checkout.run_folder().table()) == 6
    formats = checkout.run_folder().table("formats")
    assert set(formats.outcome) == {"failed"}
    assert formats.reason.str.contains("after the measurement").all()


def test_x_stops_at_the_first_failure(checkout: Checkout) -> None:
    checkout.write("cases/test_own.py", STRICT)
    run = checkout.pytest("cases/test_own.py", *checkout.grid[1:], "-x")
    assert run.code == pytest.ExitCode.TESTS_FAILED
    assert "1 failed" in run.last_line
    assert checkout.run_folder().table().outcome.tolist() == ["failed"]


def test_lf_measures_again_what_failed(checkout: Checkout) -> None:
    checkout.write("cases/test_own.py", STRICT)
    checkout.pytest("cases/test_own.py", *checkout.grid[1:], "--qbench-run=a")
    run = checkout.pytest("cases/test_own.py", *checkout.grid[1:], "--qbench-run=b", "--lf")
    assert "6 failed" in run.last_line
    assert set(checkout.run_folder("b").table().format) == {"fp8_e4m3"}


def test_a_case_that_two_files_measure_has_one_row(checkout: Checkout) -> None:
    checkout.write("cases/test_own.py", STRICT.partition("def test_beside")[0])
    run = checkout.pytest("cases/test_layers.py", "cases/test_own.py", *checkout.grid[1:])
    assert "6 failed, 18 passed" in run.last_line
    assert len(checkout.run_folder().table()) == 12


def test_a_session_without_cases_writes_nothing(checkout: Checkout) -> None:
    checkout.write("cases/test_own.py", "def test_own(): ...\n")
    run = checkout.pytest("cases/test_own.py")
    assert run.code == pytest.ExitCode.OK
    assert not (checkout.folder / "results").exists()


def test_workers_complete_the_rows_of_one_run(checkout: Checkout) -> None:
    run = checkout.measure("-p", "xdist", "-n", "2", "--qbench-run=a")
    assert run.code == pytest.ExitCode.OK
    assert "12 passed" in run.last_line
    assert "format x mode over all layers" in run.output
    folder = checkout.run_folder("a")
    assert len(folder.table()) == 12
    assert len(list(folder.path.glob("journal-*.jsonl"))) == 2
    assert sorted(folder.cases("finished")) == sorted(set(folder.cases("finished")))


def test_a_mistake_is_told_once_under_workers(checkout: Checkout) -> None:
    run = checkout.measure("-p", "xdist", "-n", "2", "--qbench-models=tyny")
    assert run.code != pytest.ExitCode.OK
    assert "Did you mean tiny" in run.output
    assert "Traceback" not in run.output
