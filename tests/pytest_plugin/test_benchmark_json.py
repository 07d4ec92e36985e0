"""The benchmark JSON: where it goes, what it holds, and that pytest-benchmark reads it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Checkout, Running

STRICT_GATE = "table,format,mode,what,min_sqnr_db\nlayers,int8,*,*,99\n"


@pytest.fixture(scope="module")
def zoo(new_checkout: Callable[[], Checkout]) -> Checkout:
    """A checkout where cases of the zoo's resnet have run, int8 against a gate it cannot pass."""
    checkout = new_checkout()
    checkout.write("gates.csv", STRICT_GATE)
    run = checkout.pytest(
        "cases/test_layers.py",
        "--qbench-models=resnet",
        "--qbench-layers=layer1.0.*",
        "--qbench-formats=fp8_e4m3,int8",
        "--qbench-modes=tensor,chunk128",
        "--qbench-gates=gates.csv",
        "--benchmark-json",
    )
    assert run.code == pytest.ExitCode.TESTS_FAILED
    return checkout


@pytest.fixture(scope="module")
def entries(zoo: Checkout) -> list[dict[str, Any]]:
    return zoo.run_folder().benchmarks()


def test_without_a_path_it_lies_in_the_folder_of_the_run(zoo: Checkout) -> None:
    assert (zoo.run_folder().path / "benchmark.json").is_file()
    assert not list(zoo.folder.glob("*.json"))


def test_a_case_takes_less_than_three_kilobytes(zoo: Checkout, entries: list[Any]) -> None:
    text = (zoo.run_folder().path / "benchmark.json").read_text(encoding="utf-8")
    whole = json.loads(text) | {"benchmarks": []}
    assert (len(text) - len(json.dumps(whole, indent=4))) / len(entries) < 3000


def test_params_are_strings_and_make_up_the_id(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        params = entry["params"]
        assert list(params) == ["model", "format", "mode", "layer"]
        assert "-".join(params.values()) == entry["param"]
        assert entry["fullname"] == f"cases/test_layers.py::test_layer[{entry['param']}]"


def test_each_entry_holds_what_the_table_holds(
    zoo: Checkout, entries: list[dict[str, Any]]
) -> None:
    table = zoo.run_folder().table().set_index("case")
    assert len(table) == len(entries)
    for entry in entries:
        row, info = table.loc[entry["param"]], entry["extra_info"]
        assert info["outcome"] == row.outcome
        assert info["sqnr_db"] == pytest.approx(row.sqnr_db, rel=1e-6)
        assert info["mse"] == pytest.approx(row.mse, rel=1e-6)
        assert info["compliant"]
        assert entry["stats"]["median"] == pytest.approx(row.latency_ms / 1e3, rel=1e-6)
        assert entry["stats"]["rounds"] == row.rounds == 5


def test_a_case_that_misses_its_gate_says_so_everywhere(
    zoo: Checkout, entries: list[dict[str, Any]]
) -> None:
    outcomes = {entry["param"]: entry["extra_info"]["outcome"] for entry in entries}
    table = zoo.run_folder().table().set_index("case")
    assert set(outcomes.values()) == {"passed", "failed"}
    for case, outcome in outcomes.items():
        assert outcome == table.loc[case].outcome == ("failed" if "int8" in case else "passed")
        assert ("at least 99 dB" in table.loc[case].reason) == (outcome == "failed")


def test_pytest_benchmark_compares_it(zoo: Checkout, entries: list[dict[str, Any]]) -> None:
    file = str(zoo.run_folder().path / "benchmark.json")
    compared = zoo.real(
        sys.executable, "-m", "pytest_benchmark", "compare", file, "--columns=median"
    )
    assert compared.returncode == 0, compared.stderr
    assert f"{len(entries)} tests" in compared.stdout
    assert entries[0]["name"] in compared.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("-k", "fp8", "--benchmark-json"),
        ("--benchmark-json", "-k", "fp8"),
    ],
    ids=" ".join,
)
def test_the_path_may_be_left_out_wherever_an_option_follows(
    checkout: Checkout, arguments: tuple[str, ...]
) -> None:
    assert checkout.measure(*arguments).code == pytest.ExitCode.OK
    run = checkout.run_folder()
    assert {e["params"]["format"] for e in run.benchmarks()} == {"fp8_e4m3"}
    assert {record["row"]["format"] for record in run.events("finished")} == {"fp8_e4m3"}


@pytest.mark.parametrize(
    "arguments", [("--benchmark-json=own.json",), ("--benchmark-json", "own.json")], ids=" ".join
)
def test_a_path_is_taken_as_always(
    checkout: Checkout,
    read_benchmarks: Callable[..., list[dict[str, Any]]],
    arguments: tuple[str, ...],
) -> None:
    assert checkout.measure(*arguments).code == pytest.ExitCode.OK
    assert len(read_benchmarks(checkout.folder / "own.json")) == 12
    assert not (checkout.run_folder().path / "benchmark.json").exists()


@pytest.mark.parametrize("path", ["cases/test_layers.py", "cases", "cases/test_layers.py::test"])
def test_a_test_file_is_not_overwritten(checkout: Checkout, path: str) -> None:
    run = checkout.pytest("--benchmark-json", path, *checkout.grid[1:])
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert "--benchmark-json=PATH" in run.output
    assert "def test_layer" in (checkout.folder / "cases/test_layers.py").read_text(
        encoding="utf-8"
    )


def test_a_path_that_cannot_be_written_costs_no_row(checkout: Checkout) -> None:
    run = checkout.measure("--benchmark-json=no/such/folder.json")
    assert run.code == pytest.ExitCode.INTERRUPTED
    assert "Traceback" not in run.output
    assert "The benchmark JSON is written last" in run.output
    assert len(checkout.run_folder().table()) == 12


def test_without_the_option_there_is_no_file(checkout: Checkout) -> None:
    assert checkout.measure("-k", "fp8").code == pytest.ExitCode.OK
    assert not list(checkout.folder.rglob("*.json"))


def test_a_resumed_run_does_not_lose_the_benchmarks_of_the_run_before(checkout: Checkout) -> None:
    checkout.measure("-k", "int8", "--qbench-run=a", "--benchmark-json")
    checkout.measure("--qbench-resume=a", "--benchmark-json")
    assert len(checkout.run_folder("a").benchmarks()) == 12


def test_without_pytest_benchmark_a_message_says_what_is_missing(checkout: Checkout) -> None:
    run: Running = checkout.measure("-p", "no:benchmark")
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in run.output
    assert "pytest-benchmark" in run.output


def test_with_benchmarks_disabled_rows_have_no_latency(checkout: Checkout) -> None:
    assert checkout.measure("--benchmark-disable").code == pytest.ExitCode.OK
    table = checkout.run_folder().table()
    assert len(table) == 12
    assert table.latency_ms.isna().all()
    assert table.sqnr_db.notna().all()
