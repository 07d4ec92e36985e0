"""Norm cases in a run: skips, journal, resume, benchmark JSON with the clock's own seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from qbench_suite.pytest_plugin.bridge import PedanticTimer

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Checkout

#: Kernels of the kinds there are: one that is right, one that is not, one for another machine.
PLUGIN = """
import pathlib

from qbench_suite import NORM_OPERATIONS, NormKernel, hookimpl

RMS = NORM_OPERATIONS["rms_norm"]


def twice(inputs):
    run = RMS.eager(inputs)
    return lambda: (run()[0] * 2,)


def absent(device):
    return "" if pathlib.Path("installed").exists() else "no library of that name"


@hookimpl
def qbench_register_norm_kernels(register):
    both = dict(operation=RMS, dtypes=("float32",))
    register(NormKernel(provider="mine.same", prepare=RMS.eager, **both))
    register(NormKernel(provider="mine.off", prepare=twice, **both))
    register(NormKernel(provider="mine.absent", prepare=RMS.eager, unavailable=absent, **both))
    codes = NORM_OPERATIONS["rms_norm_fp8_e4m3_token"]
    register(NormKernel(provider="mine.same", operation=codes, prepare=codes.eager))
"""
GRID = (
    "cases/test_norms.py",
    "--qbench-plugin=norms.py",
    "--qbench-norms=rms_norm:mine.*",
    "--qbench-norm-shapes=16x16,3x40",
    "--qbench-rounds=2",
    "--qbench-run=a",
    "-rs",
)


@pytest.fixture
def here(checkout: Checkout) -> Checkout:
    """A checkout with the kernels of this file."""
    checkout.write("norms.py", PLUGIN)
    return checkout


@pytest.fixture(scope="module")
def measured(new_checkout: Callable[[], Checkout]) -> tuple[Checkout, str]:
    """A checkout where the six cases have run once, and what the run printed."""
    checkout = new_checkout()
    checkout.write("norms.py", PLUGIN)
    run = checkout.pytest(*GRID, "--benchmark-json")
    assert run.code == pytest.ExitCode.TESTS_FAILED
    return checkout, run.output


def test_each_outcome_is_what_it_is(measured: tuple[Checkout, str]) -> None:
    checkout, output = measured
    assert "2 failed, 2 passed, 2 skipped" in output
    assert "no library of that name" in output
    assert "y is within 6 ulp of float32 of the float64 result; rms_norm:mine.off is off" in output
    table = checkout.run_folder("a").table("norms").set_index("case")
    assert dict(table["outcome"]) == {
        "mine.off-rms_norm-16x16-float32": "failed",
        "mine.off-rms_norm-3x40-float32": "failed",
        "mine.same-rms_norm-16x16-float32": "passed",
        "mine.same-rms_norm-3x40-float32": "passed",
    }
    assert (table["speedup_torch"] > 0).all()
    outputs = checkout.run_folder("a").table("norm_outputs")
    assert sorted(outputs["case"]) == sorted(table.index)
    assert set(outputs["output"]) == {"y"}


def test_summary_and_reports_show_norms(measured: tuple[Checkout, str]) -> None:
    checkout, output = measured
    assert "norm kernels" in output
    words = [line.split() for line in output.splitlines()]
    (shown,) = [w for w in words if w[:4] == ["rms_norm", "3x40", "float32", "mine.off"]]
    assert shown[-2:] == ["True", "failed"]
    folder = checkout.run_folder("a").path
    assert "mine.same" in (folder / "norm_report.txt").read_text(encoding="utf-8")
    assert 'data-table="norms"' in (folder / "report.html").read_text(encoding="utf-8")


def test_benchmark_json_has_axes_and_columns(measured: tuple[Checkout, str]) -> None:
    checkout, _ = measured
    entries = {entry["param"]: entry for entry in checkout.run_folder("a").benchmarks()}
    entry = entries["mine.same-rms_norm-3x40-float32"]
    assert entry["params"] == {
        "provider": "mine.same", "operation": "rms_norm", "shape": "3x40", "dtype": "float32",
        "format": "fp32",
    }  # fmt: skip
    assert entry["extra_info"]["method"] == "wall_clock"
    assert entry["extra_info"]["deterministic"] is True
    assert len(entry["stats"]["data"]) == 2
    assert not any("absent" in name for name in entries)


def test_resuming_measures_what_was_skipped_where_it_is_there_now(here: Checkout) -> None:
    here.pytest(*GRID)
    here.write("installed", "")
    arguments = [a for a in GRID if not a.startswith("--qbench-run")]
    run = here.pytest(*arguments, "--qbench-resume=a")
    assert "2 passed, 4 deselected" in run.output
    assert len(here.run_folder("a").table("norms")) == 6


def test_formats_find_quantized_outputs_by_name_and_by_mark(here: Checkout) -> None:
    grid = ("cases/test_norms.py", *GRID[1:2], "--qbench-norms=*:mine.*", GRID[3])
    for choice in (("-k", "fp8"), ("-m", "fp8_e4m3"), ("--qbench-formats=fp8_e4m3",)):
        run = here.pytest(*grid, *choice, "--collect-only", "-q")
        found = [line for line in run.output.splitlines() if "::" in line]
        assert len(found) == 4, choice  # two shapes, two dtypes
        assert all("rms_norm_fp8_e4m3_token" in line for line in found)


def test_other_selections_leave_them_out(here: Checkout) -> None:
    files = ("cases/test_norms.py", "cases/test_layers.py")
    run = here.pytest(*files, *here.grid[1:], "--qbench-plugin=norms.py", "--collect-only", "-qq")
    assert run.output.split() == ["cases/test_layers.py:", "12"]


def test_a_selection_of_theirs_leaves_the_others_out(here: Checkout) -> None:
    run = here.pytest(*GRID[1:], "--collect-only", "-qq")
    assert run.output.split() == ["cases/test_norms.py:", "6"]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--qbench-norms=rms_norm:lost", "rms_norm:lost"),
        ("--qbench-norm-shapes=16", "takes, 2; got 16"),
        ("--qbench-norm-shapes=99999999x99999999", "fits an address space, in float64 2^47 bytes"),
        ("--qbench-norm-dtypes=float64", "--qbench-norm-dtypes takes a comma list"),
        ("--qbench-formats=nf4", "the options select no norm case"),
    ],
)
def test_mistakes_end_the_run_in_a_sentence(here: Checkout, option: str, words: str) -> None:
    run = here.pytest(*GRID, option)
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert words in run.output
    assert "Traceback" not in run.output


def test_benchmark_holds_the_seconds_of_the_clock_that_is_given(benchmark: Any) -> None:
    """A device's own time, not how long the host waited for it."""
    now, lengths = 100.0, iter([9.0, 1.0, 2.0, 4.0])

    def function() -> None:
        nonlocal now
        now += next(lengths)

    samples = PedanticTimer(benchmark, 3)(function, clock=lambda: now)
    assert samples.seconds == (1.0, 2.0, 4.0), "the first is a warm-up"
    assert benchmark.stats.stats.data == [1.0, 2.0, 4.0]
