"""Linear and integer cases in a run: skips, journal, resume, benchmark JSON, and no one else's runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Checkout

#: Layers of the kinds there are: one that works, one that is not exact, one for another machine; and a
#: method that nothing suits.
PLUGIN = """
import copy
import pathlib

from torch import nn

from qbench_suite import IntegerMethod, LinearEntry, hookimpl


class Off(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.linear = copy.deepcopy(linear)

    def forward(self, x):
        return self.linear(x) * 0.5


def absent(device):
    return "" if pathlib.Path("installed").exists() else "no library of that name"


@hookimpl
def qbench_register_linears(register):
    both = dict(format="int8", dtypes=("float32",))
    register(LinearEntry(name="mine.same", build=copy.deepcopy, **both))
    register(LinearEntry(name="mine.off", build=Off, **both))
    register(LinearEntry(name="mine.absent", build=copy.deepcopy, unavailable=absent, **both))


@hookimpl
def qbench_register_integer_methods(register):
    def misfit(model):
        return f"{type(model).__name__} has no block of a transformer"

    register(IntegerMethod(name="mine.int", convert=None, misfit=misfit))
"""
GRID = (
    "cases/test_linear.py",
    "--qbench-plugin=layers.py",
    "--qbench-linears=mine.*",
    "--qbench-linear-sizes=16x16",
    "--qbench-linear-rows=1,3",
    "--qbench-rounds=2",
    "--qbench-run=a",
    "-rs",
)


@pytest.fixture
def here(checkout: Checkout) -> Checkout:
    """A checkout with the layers of this file."""
    checkout.write("layers.py", PLUGIN)
    return checkout


@pytest.fixture(scope="module")
def measured(new_checkout: Callable[[], Checkout]) -> tuple[Checkout, str]:
    """A checkout where the six cases have run once, and what the run printed."""
    checkout = new_checkout()
    checkout.write("layers.py", PLUGIN)
    run = checkout.pytest(*GRID, "--benchmark-json")
    assert run.code == pytest.ExitCode.TESTS_FAILED
    return checkout, run.output


def test_each_outcome_is_what_it_is(measured: tuple[Checkout, str]) -> None:
    checkout, output = measured
    assert "2 failed, 2 passed, 2 skipped" in output
    assert "no library of that name" in output
    assert "sqnr_db of int8 weights in float32 is at least 37 dB; mine.off has 6.02 dB" in output
    table = checkout.run_folder("a").table("linears").set_index("case")
    assert dict(table["outcome"]) == {
        "mine.off-float32-16x16-1": "failed",
        "mine.off-float32-16x16-3": "failed",
        "mine.same-float32-16x16-1": "passed",
        "mine.same-float32-16x16-3": "passed",
    }
    assert (table["speedup_bf16"] > 0).all()


def test_summary_and_reports_show_linear_layers(measured: tuple[Checkout, str]) -> None:
    checkout, output = measured
    assert "linear layers in low precision" in output
    (line,) = [
        line for line in output.splitlines() if line.startswith("mine.off   float32  16x16     3")
    ]
    assert line.split()[-2:] == ["6.02", "failed"]
    folder = checkout.run_folder("a").path
    assert "mine.same" in (folder / "linear_report.txt").read_text(encoding="utf-8")
    assert 'data-table="linears"' in (folder / "report.html").read_text(encoding="utf-8")


def test_skipped_cases_are_in_no_file(measured: tuple[Checkout, str]) -> None:
    checkout, _ = measured
    folder = checkout.run_folder("a")
    assert len(folder.cases("started")) == len(folder.cases("finished")) == 4
    assert not any("absent" in case for case in folder.cases("started"))
    assert not any("absent" in entry["name"] for entry in folder.benchmarks())


def test_benchmark_json_has_axes_and_columns(measured: tuple[Checkout, str]) -> None:
    checkout, _ = measured
    entries = {entry["param"]: entry for entry in checkout.run_folder("a").benchmarks()}
    entry = entries["mine.same-float32-16x16-3"]
    assert entry["params"] == {
        "entry": "mine.same", "dtype": "float32", "size": "16x16", "rows": 3, "format": "int8",
    }  # fmt: skip
    assert entry["extra_info"]["outcome"] == "passed"
    assert entry["extra_info"]["compression"] == 1
    assert len(entry["stats"]["data"]) == 2


def test_resuming_measures_what_was_skipped_where_it_is_there_now(here: Checkout) -> None:
    here.pytest(*GRID)
    here.write("installed", "")
    arguments = [a for a in GRID if not a.startswith("--qbench-run")]
    run = here.pytest(*arguments, "--qbench-resume=a")
    assert "2 passed, 4 deselected" in run.output
    assert len(here.run_folder("a").table("linears")) == 6
    again = here.pytest(*arguments, "--qbench-resume=a")
    assert again.code == pytest.ExitCode.OK
    assert "a has finished every case selected" in again.output


def test_names_given_twice_are_measured_once(here: Checkout) -> None:
    doubled = ("--qbench-linears=mine.same,mine.s*", "--qbench-linear-rows=3,3")
    run = here.pytest(*GRID, *doubled, "--collect-only", "-q")
    assert "1 test collected" in run.output


def test_other_selections_leave_them_out(here: Checkout) -> None:
    files = ("cases/test_linear.py", "cases/test_integer_vit.py", "cases/test_layers.py")
    grid = here.grid[1:]  # names modes
    run = here.pytest(*files, *grid, "--qbench-plugin=layers.py", "--collect-only", "-qq")
    assert "test_linear" not in run.output
    assert "test_integer_vit" not in run.output
    assert "cases/test_layers.py: 12" in run.output


def test_a_selection_of_theirs_leaves_the_others_out(here: Checkout) -> None:
    run = here.pytest(*GRID[1:], "--collect-only", "-qq")
    assert run.output.split() == ["cases/test_linear.py:", "6"]


def test_a_model_that_a_method_cannot_convert_is_skipped_with_the_reason(here: Checkout) -> None:
    run = here.pytest(
        "cases/test_integer_vit.py",
        "--qbench-plugin=layers.py",
        "--qbench-plugin=tiny.py",
        "--qbench-integers=mine.int",
        "--qbench-models=tiny",
        "-rs",
    )
    assert run.code == pytest.ExitCode.OK
    assert "1 skipped" in run.output
    assert "Sequential has no block of a transformer" in run.output
    assert not (here.folder / "results").exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--qbench-linears=mine.lost", "mine.lost"),
        ("--qbench-linear-sizes=16", "--qbench-linear-sizes takes a comma list"),
        ("--qbench-formats=nf4", "the options select no linear case"),
    ],
)
def test_mistakes_end_the_run_in_a_sentence(here: Checkout, option: str, words: str) -> None:
    run = here.pytest(*GRID, option)
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert words in run.output
    assert "Traceback" not in run.output
