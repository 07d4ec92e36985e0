"""Linear and integer cases on the page, in texts and in Markdown: what is shown is what was measured."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from qbench_suite.report import integer_sections, linear_sections, write_reports
from qbench_suite.report.leads import lead
from qbench_suite.report.markdown import summary
from qbench_suite.report.run import Run
from qbench_suite.results import IntegerRow, IntegerStageRow, LinearRow

MakeRun = Callable[..., Path]


@pytest.fixture
def computed(make_run: MakeRun, made: Any) -> Run:
    """A run of linear and integer cases alone."""
    return Run.read(make_run(*made.linear_rows(), *made.integer_rows()))


def test_a_card_a_size_and_dtype(make_run: MakeRun, made: Any) -> None:
    rows = made.linear_rows()
    rows[0].out_features = 1024
    cards = linear_sections.latency_cards(Run.read(make_run(*rows)))
    assert [(card.title, card.note) for card in cards] == [
        ("1024×4096 weights", "bfloat16 inputs, 2 threads"),
        ("4096×4096 weights", "bfloat16 inputs, 2 threads"),
        ("4096×4096 weights", "float32 inputs, 2 threads"),
    ]
    assert len(re.findall("<title>", cards[2].svg)) == 4 * 6
    for name in ("FP32", "BF16", *("w8a16", "w4a16", "torchao.int8wo", "quanto.int8")):
        assert f">{name}</text>" in cards[2].svg
    assert "w8a16, 1 row: 0.4 ms, 6.75 × FP32, 1.75 × BF16, int8pack" in cards[2].svg


def test_float_lines_are_medians_of_what_was_timed_beside(make_run: MakeRun) -> None:
    rows = [
        LinearRow(
            case=str(time), entry=f"e{time}", dtype="float32", in_features=1, out_features=1, rows=4,
            latency_ms=1.0, fp32_latency_ms=time,
        )
        for time in (2.0, 30.0, 3.0, math.inf)
    ]  # fmt: skip
    found = linear_sections.linear_rows(Run.read(make_run(*rows)))
    line = linear_sections._reference("FP32", found, "fp32_latency_ms")
    assert (line.points, line.reference) == ([(4, 3.0)], True)
    assert not linear_sections._reference("BF16", found, "bf16_latency_ms").points


def test_untimed_cases_have_a_table_and_no_picture(make_run: MakeRun) -> None:
    row = LinearRow(case="a", entry="a", rows=4, in_features=8, out_features=2, sqnr_db=math.inf)
    run = Run.read(make_run(row))
    assert linear_sections.latency_cards(run) == []
    table = linear_sections.linear_table(run)
    assert table
    assert '"2\\u00d78"' in table.json
    assert linear_sections.lead(run) == ""


def test_page_has_both_tables_and_their_commands(realistic_page: Any) -> None:
    assert len(realistic_page.tables["linears"]["rows"]) == 48
    assert realistic_page.column("integers", "top-1") == [71.2, 71.9, 97.4, 98.1]
    assert realistic_page.column("integers", "no float") == ["–", "–", "✓", "✓"]
    details = [dict(row) for row in realistic_page.tables["linears"]["details"]]
    commands = {row["command"].split("[")[0] for row in details}
    assert commands == {"pytest 'cases/test_linear.py::test_linear"}
    failed = realistic_page.column("failed", "case")
    assert "quanto.int8-float32-4096x4096-2048" in failed


def test_accuracy_is_beside_fp32_on_a_scale_that_shows_it(computed: Run) -> None:
    tiny, vit = integer_sections.accuracy_strips(computed)
    assert (vit.title, vit.scale) == ("vit", "top-1 of 360 images, 95 to 100 %")
    assert [strip["name"] for strip in vit.strips] == ["FP32", "fqvit.log4", "fqvit.log8"]
    fp32, four, _ = vit.strips
    assert fp32["middle"] == f"{100 * (98.3 - 95) / 5:.2f}" == four["reference"]
    assert four["low"] == f"{100 * (95.9 - 95) / 5:.2f}"
    assert four["numbers"] == "97.40 %"
    assert tiny.scale.endswith("69 to 73 %")


def test_steps_are_in_order_with_quartiles_over_blocks(computed: Run) -> None:
    *_, strips = integer_sections.stage_strips(computed)
    assert strips.title == "vit by fqvit.log8"
    assert [s["name"] for s in strips.strips] == [
        "norm1", "qkv", "attention", "proj", "norm2", "fc2", "branch",
    ]  # fmt: skip
    branch = strips.strips[-1]
    best, worst = 27.9 - 0.6, 27.9 - 0.6 - 11 / 4
    assert branch["numbers"] == f"{(best + worst) / 2:.1f} dB, least {worst:.1f}"
    end = 42.0 - 0.6
    assert float(branch["middle"]) == pytest.approx(50 * (best + worst) / end, abs=0.01)


def test_steps_that_are_exact_or_lost_lie_at_the_ends(make_run: MakeRun) -> None:
    row = IntegerRow(case="m-n", model="m", method="n")
    row.details += [
        IntegerStageRow(case="m-n", model="m", method="n", order=i, stage=str(value), sqnr_db=value)
        for i, value in enumerate((math.inf, 20.0, -3.0, -math.inf, None))
    ]
    (strips,) = integer_sections.stage_strips(Run.read(make_run(row)))
    found = {s["name"]: (s["middle"], s["numbers"]) for s in strips.strips}
    assert found == {
        "inf": ("100.00", "inf dB"),
        "20.0": ("100.00", "20.0 dB"),
        "-3.0": ("0.00", "-3.0 dB"),
        "-inf": ("0.00", "-inf dB"),
    }


def test_audits_say_what_was_looked_at(computed: Run) -> None:
    matrix = integer_sections.audit_matrix(computed)
    assert matrix
    operations, instructions, verdict = matrix.rows["vit, fqvit.log8"]
    assert operations[:2] == ("0 float of 31", "good")
    assert instructions[:2] == ("0 float of 4,123", "good")
    assert verdict[:2] == ("✓", "good")
    unseen = matrix.rows["timm:deit_tiny_patch16_224, fqvit.log8"]
    assert [cell[:2] for cell in unseen[1:]] == [("–", "none"), ("–", "none")]


def test_a_float_operation_is_marked(make_run: MakeRun, made: Any) -> None:
    row = made.integer_rows()[0]
    row.float_operations, row.integer_only, row.outcome = 3, False, "failed"
    matrix = integer_sections.audit_matrix(Run.read(make_run(row)))
    assert matrix
    (cells,) = matrix.rows.values()
    assert [cell[:2] for cell in (cells[0], cells[2])] == [("3 float of 31", "bad"), ("✗", "bad")]


def test_lead_tells_the_fastest_of_each_kind(computed: Run) -> None:
    assert lead(computed) == (
        "2 models in integers: no float operation in the blocks of 2 of 4 cases; the fastest block is "
        "timm:deit_tiny_patch16_224's by fqvit.log4, 4.8 × FP32. Of 4 linear layers in low precision "
        "the fastest over FP32 is w4a16, 1 row: 0.25 ms, 10.80 × FP32, 2.80 × BF16, int8pack."
    )


def test_lead_of_emulated_cases_comes_first(make_run: MakeRun, made: Any) -> None:
    run = Run.read(make_run(made.model_row("m", "p"), *made.linear_rows()))
    assert lead(run).startswith("1 policy on m")


def test_texts_hold_every_case_within_120_columns(computed: Run) -> None:
    written = {
        path.name: path.read_text(encoding="utf-8") for path in write_reports(computed.folder)
    }
    linear, integer = written["linear_report.txt"], written["integer_report.txt"]
    assert linear.startswith("Linear layers, weights 4096×4096\n=====")
    assert linear.count("\n") > 48
    assert "sqnr_db of int8 weights is at least 41 dB" in linear
    assert integer.count("Steps, each on what the float block reads") == 4
    assert "FP32                19.80 ms, 4.83 times as long" in integer
    assert "top-1 (%)" in integer
    assert all(len(line) <= 120 for text in (linear, integer) for line in text.splitlines())


def test_commands_in_texts_are_whole(computed: Run) -> None:
    write_reports(computed.folder)
    text = (computed.folder / "integer_report.txt").read_text(encoding="utf-8")
    _, _, rest = text.partition("measure it again:  ")
    words = shlex.split(rest.split("\n\n")[0])
    assert words[0] == "pytest"
    assert words[1].endswith("[timm.deit_tiny_patch16_224-fqvit.log4]")


def test_a_run_without_them_has_no_text_of_them(make_run: MakeRun, made: Any) -> None:
    paths = write_reports(make_run(made.model_row("m", "p")))
    assert {path.name for path in paths} == {"comparison_report.txt", "report.html"}


def test_summary_of_a_step_has_a_table_of_each(computed: Run) -> None:
    text = summary(computed)
    assert text.count("| torchao.int8wo |") == 12
    assert (
        "| w4a16 | bfloat16 | 4096×4096 | 1 | 0.250 | 10.80 | 2.80 | 7.50 | 20.5 | passed |" in text
    )
    line = next(line for line in text.splitlines() if line.startswith("| vit | fqvit.log8"))
    cells = [cell.strip() for cell in line.split(" | ")]
    assert cells[2:5] == ["yes", r"98.1 \[96.6, 99.0\]", "-0.20"]
