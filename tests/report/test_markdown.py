"""Markdown for the summary of a GitHub step."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qbench_suite.report import ReportWarning, step_summary
from qbench_suite.report.markdown import escape, summary
from qbench_suite.report.run import Run
from qbench_suite.results import ModelRow

MakeRun = Callable[..., Path]


def cells(line: str) -> list[str]:
    """The cells of a row as GitHub takes them: split at bars that are not escaped."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables(text: str) -> list[list[list[str]]]:
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [[cells(line) for line in block.splitlines()] for block in blocks]


def test_model_cases_have_a_row_each(make_run: MakeRun, made: Any) -> None:
    rows = [made.model_row("m", p, top1=t) for p, t in (("p", 71.25), ("q", 60))]
    rows += [made.model_row("m", "off", compliant=False, violations=1821)]
    rows += [ModelRow(case="m-z", model="m", policy="z", outcome="error", reason="no | way")]
    (table,) = tables(summary(Run.read(make_run(*rows))))
    assert len({len(row) for row in table}) == 1
    by_policy = {row[1]: dict(zip(table[0], row, strict=True)) for row in table[2:]}
    assert list(by_policy) == ["off", "p", "q", "z"]
    assert by_policy["p"]["top-1 (%) [95 %]"] == r"71.2 \[69.2, 73.2\]"
    assert by_policy["p"]["Δ FP32 (points)"] == "-0.88"
    assert by_policy["off"]["compliant"] == "no (1,821 off)"
    assert by_policy["z"]["outcome"] == r"error: no \| way"
    assert by_policy["z"]["weight bits"] == ""


def test_several_models_have_a_line_each(make_run: MakeRun, made: Any) -> None:
    few = [made.model_row(m, "p", top1=72, images=50) for m in ("a", "b")]
    text = summary(Run.read(make_run(*few)))
    assert text.count("none for sure; measured within it p at 4.25 bits a weight") == 2
    assert "- a: none for sure" in text


def test_a_case_not_looked_at_is_told(make_run: MakeRun, made: Any) -> None:
    (table,) = tables(summary(Run.read(make_run(made.model_row("m", "p", compliant=None)))))
    assert dict(zip(table[0], table[2], strict=True))["compliant"] == "not looked at"


def test_layer_cases_have_a_row_a_format_and_mode_and_the_worst(
    make_run: MakeRun, made: Any
) -> None:
    rows = made.layer_rows(["vit"], ["f", "g"], ["tensor", "mx32"], 9)
    groups, worst = tables(summary(Run.read(make_run(*rows))))
    assert [row[:2] for row in groups[2:]] == [
        ["f", "mx32"],
        ["f", "tensor"],
        ["g", "mx32"],
        ["g", "tensor"],
    ]
    lowest = sorted(r.sqnr_db for r in rows)[:10]
    assert [row[0] for row in worst[2:]] == [f"{v:.2f}" for v in lowest]


def test_a_huge_run_is_cut(make_run: MakeRun) -> None:
    rows = [
        ModelRow(case=str(n), model="m", policy=f"p{n:03}", outcome="passed") for n in range(350)
    ]
    text = summary(Run.read(make_run(*rows)))
    assert len(tables(text)[0]) == 302
    assert "50 more in the run's tables." in text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b", r"a\|b"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("`x` *y* _z_ [l](u)", r"\`x\` \*y\* \_z\_ \[l\](u)"),
        ("two\nlines", "two lines"),
        ("back\\slash", r"back\\slash"),
        ("&lt;", "&amp;lt;"),
    ],
)
def test_nothing_is_markup(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_a_summary_is_appended(make_run: MakeRun, made: Any, tmp_path: Path) -> None:
    folder, file = make_run(made.model_row("m", "p")), tmp_path / "summary.md"
    file.write_text("before\n")
    step_summary(folder, file)
    step_summary(folder, file)
    text = file.read_text(encoding="utf-8")
    assert text.startswith("before\n### qbench")
    assert text.count("### qbench") == 2
    assert text.endswith("\n\n")


def test_a_summary_that_cannot_be_written_is_a_warning(
    make_run: MakeRun, made: Any, tmp_path: Path
) -> None:
    with pytest.warns(ReportWarning, match=r"summary of the step is not written.*absent"):
        step_summary(make_run(made.model_row("m", "p")), tmp_path / "absent" / "summary.md")
