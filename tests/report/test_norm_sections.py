"""Norm cases on the page, in texts and in Markdown: what is shown is what was measured."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from qbench_suite.report import norm_sections, write_reports
from qbench_suite.report.leads import lead
from qbench_suite.report.markdown import summary
from qbench_suite.report.run import Run
from qbench_suite.results import NormRow

MakeRun = Callable[..., Path]


@pytest.fixture
def measured(make_run: MakeRun, made: Any) -> Run:
    """A run of norm cases alone."""
    return Run.read(make_run(*made.norm_rows()))


def test_a_card_an_operation_and_dtype(measured: Run) -> None:
    cards = norm_sections.bandwidth_cards(measured)
    assert [(card.title, card.note) for card in cards] == [
        (operation, f"{dtype} inputs, cuda graph, cold cache")
        for operation in ("layer_norm", "rms_norm", "rms_norm_backward")
        for dtype in ("bfloat16", "float32")
    ]
    assert len(re.findall("<title>", cards[0].svg)) == 4 * 3
    for name in ("copy", "cuda", "torch", "torch.compile", "triton", "GB/s", "MiB moved"):
        assert f">{name}</text>" in cards[0].svg
    hint = "cuda, 2048×4096: 0.536 ms, 62.6 GB/s, 93 % of a copy, 1.50 × torch"
    assert hint in cards[0].svg


def row(case: str, **columns: Any) -> NormRow:
    facts: dict[str, Any] = {
        "operation": "a", "provider": "p", "shape": "8x8", "dtype": "float32", "outcome": "passed",
        "bytes_moved": 1 << 20, "latency_ms": 1.0, "gb_per_s": 2.0, "method": "wall_clock",
        "cache": "warm", "copy_gb_per_s": 4.0, "copy_share": 0.5,
    }  # fmt: skip
    return NormRow(case=case, **(facts | columns))


def test_copy_is_the_median_of_what_it_reached_beside_each(make_run: MakeRun) -> None:
    speeds = (2.0, 30.0, 3.0, math.inf, None)
    rows = [row(str(n), provider=str(n), copy_gb_per_s=speed) for n, speed in enumerate(speeds)]
    line = norm_sections._copy(norm_sections.norm_rows(Run.read(make_run(*rows))))
    assert (line.points, line.reference) == ([(1.0, 3.0)], True)


def test_a_single_point_is_no_picture(make_run: MakeRun) -> None:
    rows = [row("0"), row("1", operation="b"), row("2", operation="b", provider="q")]
    cards = norm_sections.bandwidth_cards(Run.read(make_run(*rows)))
    assert [card.title for card in cards] == ["b"]


def test_the_fullest_have_pictures(make_run: MakeRun) -> None:
    rows = [row(f"{n}{p}", operation=f"o{n:02}", provider=p) for n in range(14) for p in "pq"]
    rows += [row("third", operation="o13", provider="r")]
    cards = norm_sections.bandwidth_cards(Run.read(make_run(*rows)))
    assert [card.title for card in cards] == [*(f"o{n:02}" for n in range(11)), "o13"]


def test_untimed_cases_have_a_table_and_no_picture(make_run: MakeRun) -> None:
    columns = dict.fromkeys(("latency_ms", "gb_per_s", "copy_gb_per_s", "copy_share"))
    run = Run.read(make_run(row("0", **columns), row("1", provider="q", **columns)))
    assert norm_sections.bandwidth_cards(run) == []
    assert norm_sections.norm_table(run)
    assert norm_sections.lead(run) == ""


def test_page_has_the_table_and_its_commands(realistic_page: Any) -> None:
    assert len(realistic_page.tables["norms"]["rows"]) == 72
    details = [dict(row) for row in realistic_page.tables["norms"]["details"]]
    commands = {row["command"].split("[")[0] for row in details}
    assert commands == {"pytest 'cases/test_norms.py::test_norm"}
    assert details[0]["same bits again"] == "yes"
    assert "triton-layer_norm-1024x768-bfloat16" in realistic_page.column("failed", "case")


def test_lead_tells_what_is_nearest_to_a_copy(make_run: MakeRun) -> None:
    rows = [row("0", speedup_torch=1.5), row("1", operation="b", copy_share=0.9, latency_ms=0.25)]
    assert lead(Run.read(make_run(*rows))) == (
        "Of 2 norm kernels b comes nearest to the speed of a copy: p, 8×8: 0.25 ms, 2 GB/s, 90 % of a "
        "copy."
    )


def test_text_holds_every_case_within_120_columns(measured: Run) -> None:
    written = {path.name: path for path in write_reports(measured.folder)}
    text = written["norm_report.txt"].read_text(encoding="utf-8")
    assert text.startswith("layer_norm\n==========\n")
    assert len(re.findall(r"cold +(?:passed|failed)$", text, re.MULTILINE)) == 72
    assert "triton is off by 9" in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_summary_of_a_step_has_a_table(measured: Run) -> None:
    text = summary(measured)
    assert text.count("| torch.compile |") == 18
    assert (
        r"| layer\_norm | cuda | 2048x4096 | bfloat16 | 0.536 | 62.6 | 93 | 1.50 | 0.51 | 0.52 | passed |"
        in text
    )


def test_a_run_without_them_has_none_of_it(make_run: MakeRun, made: Any) -> None:
    run = Run.read(make_run(made.model_row("m", "p")))
    assert norm_sections.norm_table(run) is None
    assert "norm_report.txt" not in {path.name for path in write_reports(run.folder)}
    assert "Normalization" not in summary(run)
