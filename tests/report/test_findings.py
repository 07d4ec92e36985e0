"""Findings: the sentence on top, and the key figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qbench_suite.report.findings import findings, key_figures, lead
from qbench_suite.report.run import Run
from qbench_suite.results import FormatRow, ModelRow

MakeRun = Callable[..., Path]


def case(made: Any, policy: str, drop: float, high: float, bits: float, **changes: Any) -> ModelRow:
    """A case of the model ``m`` on 2,000 images with FP32 at 72.00 % and a known paired interval."""
    facts = {"model": "m", "top1": 72 - drop, "fp32": 72.0, "weight_bits": bits, "input_bits": 8.0}
    ends = {"top1_drop_low": 2 * drop - high, "top1_drop_high": high}
    row: ModelRow = made.model_row(policy=policy, **(facts | ends | changes))
    return row


def test_the_best_has_the_fewest_bits_of_those_surely_within_a_point(
    make_run: MakeRun, made: Any
) -> None:
    rows = [
        case(made, "tiny", 1.1, 1.5, 3),
        case(made, "unsure", 0.5, 1.01, 3.5),
        case(made, "best", 0.5, 1.0, 4),
        case(made, "wider", 0.1, 0.3, 4, input_bits=16.0),
        case(made, "cheat", 0, 0.2, 2, outcome="failed"),
        case(made, "float", 0, 0.1, 1, quantized_layers=0),
        case(made, "large", -0.2, 0.1, 8),
        ModelRow(case="m-bad", model="m", policy="bad", outcome="error"),
    ]
    run = Run.read(make_run(*rows))
    (finding,) = findings(run)
    assert finding.best is not None
    assert finding.best["policy"] == "best"
    assert finding.nearest is not None
    assert finding.nearest["policy"] == "large"
    assert lead(run) == (
        "8 policies on m: fewest bits within 1 point of FP32 by best at 4.00 bits a weight, 71.50 %, "
        "−0.50 from FP32's 72.00 % (95 %: −1.00 to 0.00; 2,000 images)."
    )


def test_few_images_support_no_claim(make_run: MakeRun, made: Any) -> None:
    rows = [
        case(made, "p", 0.0, 3.77, 4.49, images=50),
        case(made, "q", 0.0, 3.77, 8.25, images=50),
    ]
    run = Run.read(make_run(*rows))
    (finding,) = findings(run)
    assert finding.best is None
    assert lead(run) == (
        "2 policies on m: none is sure to stay within 1 point of FP32; fewest bits measured within it "
        "by p at 4.49 bits a weight, 72.00 %, 0.00 from FP32's 72.00 % (95 %: −3.77 to +3.77; "
        "50 images)."
    )


def test_a_run_without_the_interval_claims_nothing(make_run: MakeRun, made: Any) -> None:
    row = case(made, "p", 0.5, 0.6, 4)
    row.top1_drop_low = row.top1_drop_high = None
    said = lead(Run.read(make_run(row)))
    assert "none is sure to stay within 1 point" in said
    assert said.endswith("(2,000 images).")


def test_equal_bits_are_told_apart_by_inputs_then_accuracy(make_run: MakeRun, made: Any) -> None:
    rows = [
        case(made, "a", 0.2, 0.5, 4, input_bits=None),
        case(made, "b", 0.4, 0.7, 4),
        case(made, "c", 0.3, 0.6, 4),
    ]
    (finding,) = findings(Run.read(make_run(*rows)))
    assert finding.best is not None
    assert finding.best["policy"] == "c"


def test_where_none_keeps_the_accuracy_the_nearest_is_named(make_run: MakeRun, made: Any) -> None:
    run = Run.read(make_run(made.model_row("m", "p", top1=50), made.model_row("m", "q", top1=60)))
    assert "none stays within 1 point of FP32; nearest is q" in lead(run)


def test_a_few_models_are_named_with_their_own_policy(make_run: MakeRun, made: Any) -> None:
    rows = [
        case(made, "w4", 0.2, 0.9, 4.49, model="a", images=1000),
        case(made, "w8", 0.1, 0.4, 8.25, model="a", images=1000),
        case(made, "w4", 0.9, 1.9, 4.49, model="b"),
        case(made, "w8", 0.1, 0.4, 8.25, model="b"),
        case(made, "w4", 0.9, 1.9, 4.49, model="c"),
    ]
    assert lead(Run.read(make_run(*rows))) == (
        "2 policies on 3 models, 1,000 to 2,000 images a case. Fewest bits within 1 point of FP32 (95 %): "
        "a: w4 at 4.49 bits a weight; b: w8 at 8.25 bits a weight; c: none for sure."
    )


def test_many_models_are_counted(make_run: MakeRun, made: Any) -> None:
    ends = {"a": 0.9, "b": 0.9, "c": 1.1, "d": 2.0}
    rows = [case(made, "p", 0.2, high, 4, model=model) for model, high in ends.items()]
    head = "1 policy on 4 models, 2,000 images a case: "
    assert lead(Run.read(make_run(*rows, name="some"))) == (
        f"{head}2 of the models have a policy that stays within 1 point of FP32 (95 %)."
    )
    assert lead(Run.read(make_run(*rows[2:], name="lost"))) == (
        "1 policy on 2 models, 2,000 images a case: none is sure to stay within 1 point of FP32 (95 %)."
    )


def test_runs_of_other_cases(make_run: MakeRun, made: Any) -> None:
    layers = Run.read(make_run(*made.layer_rows(["vit"], ["f", "g"], ["tensor"], 4), name="layers"))
    assert lead(layers).startswith("8 layer cases: 2 formats × 1 mode on 1 model. Most exact")
    small = Run.read(make_run(*made.small_rows(), name="small"))
    assert lead(small) == "This run holds 8 rows of formats, 3 rows of quantizers."
    empty = Run.read(make_run(name="empty"))
    assert lead(empty) == "This run holds no finished case."
    assert key_figures(empty) == []


def test_key_figures_count(make_run: MakeRun, made: Any) -> None:
    rows = [
        made.model_row("m", "a", images=1000, slowdown=2.0, checked_values=1000),
        made.model_row("m", "b", images=500, slowdown=4.0, checked_values=7, compliant=None),
        made.model_row(
            "m", "c", compliant=False, outcome="failed", slowdown=None, checked_values=None
        ),
        ModelRow(case="m-d", model="m", policy="d", outcome="error"),
    ]
    rows[2].images = None
    figures = {
        label: (figure, note) for figure, label, note in key_figures(Run.read(make_run(*rows)))
    }
    assert figures == {
        "cases passed": ("50.0 %", "1 failed, 1 error"),
        "cases compliant": ("1 / 2", "1 off the grid, 2 not looked at"),
        "values checked": ("1 k", "against the grid, exactly"),
        "images a case": ("500 to 1,000", "1,500 in 2 cases"),
        "median time over FP32": ("3.00 ×", "emulated"),
    }


@pytest.mark.parametrize("outcome", ["passed", "error"])
def test_a_run_of_formats_has_figures(make_run: MakeRun, outcome: str) -> None:
    run = Run.read(make_run(FormatRow(case="f", outcome=outcome)))
    share = "100.0 %" if outcome == "passed" else "0.0 %"
    assert key_figures(run)[0][0] == share


def test_images_are_those_of_a_case_not_a_sum(make_run: MakeRun, made: Any) -> None:
    run = Run.read(make_run(*[made.model_row("m", p, images=50) for p in "abcdef"]))
    assert ("50", "images a case", "300 in 6 cases") in key_figures(run)


@pytest.mark.parametrize(
    ("compliance", "note"),
    [
        ("weight=50;tolerance=2", "against the grid, within 2 ulps"),
        ("weight=50;tolerance=1", "against the grid, within 1 ulp"),
        ("weight=50;tolerance=2 ulps", "against the grid, within 2 ulps"),
        ("weight=50;tolerance=exact", "against the grid, exactly"),
        ("weight=50", "against the grid, exactly"),
    ],
)
def test_the_tolerance_of_compliance_is_told(
    make_run: MakeRun, made: Any, compliance: str, note: str
) -> None:
    run = Run.read(make_run(made.model_row("m", "p", compliance=compliance)))
    assert ("412 M", "values checked", note) in key_figures(run)
