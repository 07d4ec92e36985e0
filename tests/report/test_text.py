"""The comparison report: what it says, how wide it is, and whatever a row holds."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qbench_suite.report import notation
from qbench_suite.report.run import Run
from qbench_suite.report.text import write_texts
from qbench_suite.results import ModelLayerRow, ModelRow, ViolationRow

MakeRun = Callable[..., Path]


def report(folder: Path) -> str:
    (path,) = write_texts(Run.read(folder))
    return path.read_text(encoding="utf-8")


def test_a_case_has_its_folder(realistic: Path) -> None:
    path = realistic / "deit_tiny_patch16_224" / "w4a8-mx32" / "comparison_report.txt"
    text = path.read_text(encoding="utf-8")
    assert text.startswith("comparison of       deit_tiny_patch16_224 converted by w4a8-mx32\n")
    assert len(list(realistic.glob("*/*/comparison_report.txt"))) == 42


def test_every_report_is_at_most_120_columns_wide(realistic: Path) -> None:
    for path in realistic.glob("*/*/comparison_report.txt"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert max(map(notation.columns, lines)) <= 120, path
        assert all(line == line.rstrip() for line in lines)


def test_numbers_of_the_row_are_there(make_run: MakeRun, made: Any) -> None:
    row = made.model_row("m", "p", top1=71.25, top1_low=69.2, top1_high=73.2, kl=0.0147, lost=23)
    row.details += made.model_layer_rows(row, count=9)
    text = report(make_run(row))
    assert re.search(
        r"top-1 \(%\) +72\.15 +\[70\.14, 74\.07\] +71\.25 +\[69\.20, 73\.20\] +-0\.90", text
    )
    assert "KL divergence       0.0147 nat" in text
    assert "23 images: right in FP32, wrong here" in text
    assert "every value legal   yes" in text
    assert "412,000,000" in text
    assert "99.80 % of multiply-adds" in text
    for layer in row.details:
        assert f"{layer.sqnr_db:.2f}" in text
        assert layer.layer in text
    assert "q = A               weight=int4-chunk32; input=fp8_e4m3-token" in text
    assert "machine             AMD EPYC 7763 x16" in text


def test_the_command_is_one_that_a_shell_reads(make_run: MakeRun, made: Any) -> None:
    text = report(make_run(made.model_row("m", "p"), arguments="--qbench-role='weight=*' " * 9))
    start = text.index("measure it again:  ") + len("measure it again:  ")
    words = shlex.split(text[start : text.index("\n\nAccuracy")].replace("\\\n", " "))
    assert words == [
        "pytest",
        "cases/test_models.py::test_model[m-p]",
        *["--qbench-role=weight=*"] * 9,
    ]


@pytest.mark.parametrize("arguments", ["'open", "--qbench-data='two  spaces'", "x\x07y"])
def test_any_arguments_are_shown(make_run: MakeRun, made: Any, arguments: str) -> None:
    text = report(make_run(made.model_row("m", "p"), arguments=arguments))
    assert "\x07" not in text
    if "data" in arguments:
        assert "'--qbench-data=two  spaces'" in text


def test_what_stays_float_is_named_with_its_reason(make_run: MakeRun, made: Any) -> None:
    row = made.model_row("m", "p")
    row.details += made.model_layer_rows(row, count=30)
    text = report(make_run(row))
    left = [layer.layer for layer in row.details if layer.reason]
    assert left
    assert f"{len(left)} layer" in text
    assert "the policy keeps it float" in text
    assert all(f"{name} (scaled_dot_product_attention)" in " ".join(text.split()) for name in left)


def test_values_off_the_grid_are_told_in_full(make_run: MakeRun, made: Any) -> None:
    row = made.model_row("m", "p", compliant=False, violations=1821, outcome="failed")
    row.details += made.violation_rows(row, 2)
    text = report(make_run(row))
    assert "2 of 1,821 shown." in text
    assert "0.30000001192092896" in text
    assert "0.28125 below, 0.3125 above" in text
    assert "[1,12,7] of batch 4" in text
    assert re.search(r"input +74 +OFF THE GRID", text)
    assert re.search(r"weight +50 +ok", text)


def test_a_violation_without_its_row_is_told_too(make_run: MakeRun, made: Any) -> None:
    row = made.model_row("m", "p", compliant=False, violations=None, violation="w[0] = 1.5")
    assert "first               w[0] = 1.5" in report(make_run(row))


def test_an_error_has_a_report_with_its_reason(make_run: MakeRun) -> None:
    reason = "the plugin p raised: " + "a long story " * 30
    text = report(
        make_run(ModelRow(case="m-p", model="m", policy="p", outcome="error", reason=reason))
    )
    assert "outcome             error" in text
    assert "the plugin p raised" in text
    assert "Accuracy" not in text
    assert "Cost" not in text
    assert "not looked at" in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_any_number_may_be_missing_or_infinite(make_run: MakeRun, value: float | None) -> None:
    numbers = {
        name: value
        for name, annotation in ModelRow.__annotations__.items()
        if "float" in str(annotation)
    }
    row = ModelRow(case="m-p", model="m", policy="p", outcome="passed", **numbers)
    row.details.append(ModelLayerRow(case="m-p", layer="l", mse=value, sqnr_db=value))
    row.details.append(ViolationRow(case="m-p"))
    text = report(make_run(row))
    assert "nan" not in text
    assert ("inf" in text) == (value is not None and math.isinf(value))


def test_hostile_names_stay_in_their_line_and_folder(make_run: MakeRun, made: Any) -> None:
    model, policy = "../../e\x1b[31m\nvil", "量" * 200
    row = made.model_row(model, policy, case="c", preprocessing="量子" * 90)
    row.details += [
        ModelLayerRow(case="c", layer="量" * 99, layer_type="\x07" * 99, reason="r\n" * 80)
    ]
    folder = make_run(row)
    text = report(folder)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert max(map(notation.columns, text.splitlines())) <= 120
    assert [p.parent.parent.parent for p in folder.rglob("*.txt")] == [folder]


def test_more_ways_of_quantizing_than_letters(make_run: MakeRun, made: Any) -> None:
    row = made.model_row("m", "p")
    row.details += [
        ModelLayerRow(case=row.case, order=n, layer=f"l{n}", roles=f"weight=f{n}")
        for n in range(60)
    ]
    text = report(make_run(row))
    keys = re.findall(r"^q = (\S+) ", text, re.MULTILINE)
    assert len(keys) == len(set(keys)) == 60
    assert keys[:2] == ["A", "B"]
    assert keys[26] == "A1"


def test_layers_come_in_the_order_in_which_they_run(make_run: MakeRun, made: Any) -> None:
    row = made.model_row("m", "p")
    row.details += [
        ModelLayerRow(case=row.case, order=n, layer=f"layer{n}") for n in (10, 9, 2, None)
    ]
    text = report(make_run(row))
    assert re.findall(r"^(layer\w+) ", text, re.MULTILINE)[-4:] == [
        "layer2",
        "layer9",
        "layer10",
        "layerNone",
    ]


def test_the_tolerance_of_compliance_is_no_role(make_run: MakeRun, made: Any) -> None:
    row = made.model_row("m", "p", compliance="weight=50;tolerance=2")
    text = report(make_run(row))
    assert re.search(r"^tolerance +2 ulps$", text, re.MULTILINE)
    assert re.search(r"^weight +50 +ok$", text, re.MULTILINE)
