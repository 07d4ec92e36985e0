"""A run as reports read it: records, facts, commands."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qbench_suite import ResultsError
from qbench_suite.report.run import Run, command, group_command, records

MakeRun = Callable[..., Path]


def test_empty_cells_are_none_and_infinity_stays(make_run: MakeRun, made: Any) -> None:
    row = made.model_row("m", "p", mse=math.nan, sqnr_db=math.inf, compliant=None)
    row.images = None
    (record,) = Run.read(make_run(row)).models
    assert record["mse"] is record["images"] is record["compliant"] is None
    assert record["sqnr_db"] == math.inf
    assert type(record["lost"]) is int
    assert record["torch_version"] == "2.9.0+cpu"


def test_no_table_has_no_records() -> None:
    assert records(None) == []


def test_rows_are_sorted_and_details_belong_to_their_case(make_run: MakeRun, made: Any) -> None:
    rows = [made.model_row(m, p) for m, p in (("b", "y"), ("a", "z"), ("b", "x"))]
    for row in rows:
        row.details += made.model_layer_rows(row, count=3)
    run = Run.read(make_run(*rows))
    assert [(r["model"], r["policy"]) for r in run.models] == [("a", "z"), ("b", "x"), ("b", "y")]
    assert {case: len(layers) for case, layers in run.layers_of.items()} == {
        "a-z": 3,
        "b-x": 3,
        "b-y": 3,
    }


def test_facts_of_several_processes_are_joined(make_run: MakeRun, made: Any) -> None:
    row = made.model_row("m", "p")
    make_run(row, machine="one")
    run = Run.read(make_run(row, machine="two"))
    assert sorted(run.facts["machine"].split("; ")) == ["one", "two"]
    assert run.facts["torch_version"] == "2.9.0+cpu"
    assert run.facts["roles"] == "weight=*, input=*"
    assert "event" not in run.facts


@pytest.mark.parametrize(
    ("table", "test"),
    [
        ("models", "cases/test_models.py::test_model"),
        ("layers", "cases/test_layers.py::test_layer"),
        ("formats", "cases/test_formats.py::test_format"),
        ("quantizers", "cases/test_quantizers.py::test_quantizer"),
        ("linears", "cases/test_linear.py::test_linear"),
        ("integers", "cases/test_integer_vit.py::test_integer_vit"),
    ],
)
def test_commands_name_a_test_that_exists(table: str, test: str) -> None:
    row = {"case": "m-p", "arguments": "--qbench-policies='w*'"}
    assert shlex.split(command(table, row)) == ["pytest", f"{test}[m-p]", "--qbench-policies=w*"]
    file, _, function = test.partition("::")
    root = Path(__file__).parent.parent.parent
    assert f"def {function}(" in (root / file).read_text()


def test_a_run_without_arguments_has_a_command() -> None:
    assert command("layers", {"case": "a"}) == "pytest 'cases/test_layers.py::test_layer[a]'"
    assert shlex.split(group_command("f$", "m", "")) == [
        "pytest",
        "cases/test_layers.py",
        "--qbench-formats=f$",
        "--qbench-modes=m",
    ]


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"journal-\*\.jsonl"):
        Run.read(tmp_path)
