"""Layer cases put together, against NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qbench_suite.report.aggregate import by_format_and_mode, matrix, worst_layers
from qbench_suite.report.run import Run
from qbench_suite.results import LayerRow

MakeRun = Callable[..., Path]


def test_groups_against_numpy(make_run: MakeRun, made: Any) -> None:
    rows = made.layer_rows(["vit", "resnet"], ["f", "g"], ["tensor", "mx32"], 11)
    rows[0].compliant, rows[1].compliant, rows[0].violations = False, None, 7
    groups = {(g["format"], g["mode"]): g for g in by_format_and_mode(Run.read(make_run(*rows)))}
    assert sorted(groups) == [("f", "mx32"), ("f", "tensor"), ("g", "mx32"), ("g", "tensor")]
    for (format, mode), group in groups.items():
        mine = [r for r in rows if (r.format, r.mode) == (format, mode)]
        sqnr = np.array([r.sqnr_db for r in mine])
        assert group["layers"] == len(mine) == 22
        assert group["passed"] == sum(r.outcome == "passed" for r in mine)
        assert math.isclose(group["sqnr_db_median"], float(np.median(sqnr)))
        assert group["sqnr_db_worst"] == float(sqnr.min())
        assert math.isclose(group["slowdown"], float(np.median([r.slowdown for r in mine])))
    assert groups["f", "tensor"]["compliant"] == "20/21"
    assert groups["f", "tensor"]["violations"] == 7
    assert groups["g", "mx32"]["compliant"] == "22/22"


def test_the_worst_come_first_and_empty_ones_never(make_run: MakeRun) -> None:
    values = [3.0, None, -math.inf, 1.0, math.inf]
    rows = [LayerRow(case=str(n), layer=str(n), sqnr_db=v) for n, v in enumerate(values)]
    assert [r["case"] for r in worst_layers(Run.read(make_run(*rows)), 3)] == ["2", "3", "0"]


def test_without_layers_there_is_nothing(make_run: MakeRun, made: Any) -> None:
    run = Run.read(make_run(*made.small_rows()))
    assert by_format_and_mode(run) == worst_layers(run, 5) == []


def test_a_matrix_keeps_the_order_and_leaves_holes() -> None:
    rows = [
        {"l": "b", "p": "y", "v": 1.0},
        {"l": "a", "p": "x", "v": None},
        {"l": "b", "p": "x", "v": 2.0},
    ]
    names, columns, values = matrix(rows, "l", "p", "v")
    assert (names, columns) == (["b", "a"], ["y", "x"])
    assert values[0] == [1.0, 2.0]
    assert all(math.isnan(v) for v in values[1])
