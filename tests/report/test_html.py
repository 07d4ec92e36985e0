"""The page: whole, valid, self-contained, escaped, small, whatever the run holds."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from qbench_suite.report.html import page
from qbench_suite.report.run import Run
from qbench_suite.results import (
    FormatRow,
    IntegerRow,
    IntegerStageRow,
    Journal,
    LayerRow,
    LinearRow,
    ModelLayerRow,
    ModelRow,
    QuantizerRow,
    ViolationRow,
)

MakeRun = Callable[..., Path]
ALERT = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def draw(folder: Path, made: Any) -> Any:
    return made.Page(page(Run.read(folder)))


def test_the_page_stands_alone(realistic_page: Any) -> None:
    for tag, name, value in realistic_page.attributes:
        if name in ("src", "href", "action", "data", "srcset", "poster", "xlink:href"):
            assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value)
        assert "url(" not in value
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(realistic_page.tags)
    plain = re.sub(r"data:image/png;base64,[\w+/=\s]+", "", realistic_page.source)
    assert not re.search(r"https?:|@import|url\(", plain)
    assert not re.search(r"""["'(=]//""", plain)


def test_only_the_page_s_own_script_may_run(realistic_page: Any) -> None:
    (policy,) = [
        v for tag, n, v in realistic_page.attributes if n == "content" and "default-src" in v
    ]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/=]+'", policy)
    assert not any(name.startswith("on") for _, name, _ in realistic_page.attributes)


def test_the_summary_comes_first(realistic_page: Any) -> None:
    texts = [text for tag, text in realistic_page.texts if tag in ("h1", "p", "h2")]
    assert texts[1] == "realistic"
    assert texts[2].startswith("15 policies on 3 models, 360 to 10,000 images a case. Fewest bits")
    assert re.search(r"resnet20_cifar10: w\S+ at \d\.\d\d bits a weight", texts[2])


def test_every_section_is_there_and_linked(realistic_page: Any) -> None:
    ids = {value for _, name, value in realistic_page.attributes if name == "id"}
    links = {v[1:] for tag, n, v in realistic_page.attributes if tag == "a" and n == "href"}
    sections = {
        "accuracy",
        "cases",
        "integers",
        "linears",
        "norms",
        "layers",
        "compliance",
        "latency",
        "formats",
        "float",
        "machine",
    }
    assert sections <= ids
    assert sections | {"main"} == links


def test_every_picture_is_described(realistic_page: Any) -> None:
    labels = [v for tag, n, v in realistic_page.attributes if tag == "svg" and n == "aria-label"]
    assert len(labels) == realistic_page.tags.count("svg") == 3 + 1 + 3 + 2 + 2 + 6
    assert any("Pareto front: w2a8-chunk32: 2.50 bits" in label for label in labels)
    assert any(
        re.search(r"by layer .*99 by 14; the lowest is -?[\d.]+ dB", label) for label in labels
    )


def test_units_are_in_the_headings(realistic_page: Any) -> None:
    units = {c["label"]: c["unit"] for c in realistic_page.tables["models"]["columns"]}
    assert units["top-1"] == "%"
    assert units["weight"] == "bits"
    assert units["KL"] == "nat"
    assert units["SQNR of logits"] == "dB"
    assert units["Δ FP32"] == "points"
    assert units["slowdown"] == "×"


def test_the_table_of_cases_is_the_table_of_the_run(realistic: Path, realistic_page: Any) -> None:
    rows = Run.read(realistic).models
    assert realistic_page.column("models", "policy") == [r["policy"] for r in rows]
    for shown, row in zip(realistic_page.column("models", "top-1"), rows, strict=True):
        assert shown is row["top1"] is None or math.isclose(shown, row["top1"], rel_tol=1e-5)
    details = [dict(d) for d in realistic_page.tables["models"]["details"]]
    assert all((realistic / d["report"]).is_file() for d in details)
    words = shlex.split(details[0]["command"])
    assert words[1] == f"cases/test_models.py::test_model[{rows[0]['case']}]"
    assert words[2:] == ["--qbench-policies=w*a*", "--qbench-images=2000"]


def test_one_model_is_in_the_caption_and_several_in_a_column(make_run: MakeRun, made: Any) -> None:
    def heads(folder: Path) -> list[str]:
        return [c["label"] for c in draw(folder, made).tables["models"]["columns"]]

    one = make_run(made.model_row("net", "p"), made.model_row("net", "q"), name="one")
    assert heads(one)[:4] == ["policy", "grid", "top-1", "weight"]
    assert "Every case of net" in draw(one, made).visible
    two = make_run(made.model_row("net", "p"), made.model_row("other", "p"), name="two")
    assert heads(two)[:4] == ["policy", "model", "grid", "top-1"]


def test_a_tolerance_is_told_where_compliance_is(make_run: MakeRun, made: Any) -> None:
    exact = draw(make_run(made.model_row("m", "p"), name="exact"), made)
    assert "is a legal code times its scale, exactly." in exact.visible
    row = made.model_row("m", "p", compliance="weight=50;tolerance=2")
    loose = draw(make_run(row, name="loose"), made)
    assert "within the tolerance of the run's rules: 2 ulps." in loose.visible
    assert "exactly" not in loose.visible


def test_a_case_not_looked_at_has_a_mark_of_its_own(make_run: MakeRun, made: Any) -> None:
    verdicts = {"a": True, "b": False, "c": None}
    rows = [made.model_row("m", p, compliant=c) for p, c in verdicts.items()]
    assert draw(make_run(*rows), made).column("models", "grid") == ["✓", "✗", "–"]


def test_layer_cases_are_put_together(realistic: Path, realistic_page: Any) -> None:
    layers = Run.read(realistic).tables["layers"]
    medians = layers.groupby(["format", "mode"]).sqnr_db.median()
    shown = realistic_page.column("format-mode", "SQNR median")
    assert len(shown) == 4
    assert all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(shown, medians, strict=True))
    worst = realistic_page.column("worst-layers", "SQNR")
    assert worst == sorted(worst)
    assert math.isclose(worst[0], layers.sqnr_db.min(), rel_tol=1e-5)


def test_compliance_is_told_by_more_than_a_colour(realistic_page: Any) -> None:
    cells = [text for tag, text in realistic_page.texts if tag == "td"]
    assert "✗ 1,821" in cells
    assert "error" in cells
    assert cells.count("✓") == 40 + 2  # of model cases, and of audits
    assert cells.count("✓ 40/40") == 4


def test_values_of_a_heatmap_are_written_out(realistic: Path, realistic_page: Any) -> None:
    cells = {text for tag, text in realistic_page.texts if tag == "td"}
    layers = Run.read(realistic).tables["model_layers"]
    assert {f"{value:.1f}" for value in layers.sqnr_db} <= cells


def test_a_case_that_failed_is_neither_on_the_front_nor_before_it(
    make_run: MakeRun, made: Any
) -> None:
    rows = [
        made.model_row("m", "fair", top1=70, weight_bits=4),
        made.model_row("m", "cheat", top1=72, weight_bits=2, outcome="failed"),
        made.model_row("m", "worse", top1=69, weight_bits=5),
    ]
    drawn = draw(make_run(*rows), made)
    (alt,) = [v for tag, n, v in drawn.attributes if tag == "svg" and n == "aria-label"]
    assert alt.split("Pareto front: ")[1].startswith("fair: 4.00 bits")
    assert "cheat" not in alt
    assert any(text.startswith("cheat: ") and text.endswith(", failed") for _, text in drawn.texts)


def layers_of_picture(page: Any) -> list[str]:
    """Names on the left of the only heatmap."""
    return [text for tag, text in page.texts if tag == "th" and "l." in text]


def test_layers_are_ordered_by_number_and_where_known_by_when_they_run(
    make_run: MakeRun, made: Any
) -> None:
    names = ["l.10", "l.2", "l.1"]
    rows = [LayerRow(case=n, model="m", format="f", mode="o", layer=n, sqnr_db=20.0) for n in names]
    assert layers_of_picture(draw(make_run(*rows, name="names"), made)) == ["l.1", "l.2", "l.10"]
    whole = ModelRow(case="m-p", model="m", policy="p")
    whole.details += [
        ModelLayerRow(case="m-p", model="m", policy="p", layer=n, order=k)
        for k, n in enumerate(names)
    ]
    drawn = draw(make_run(whole, *rows, name="order"), made)
    assert layers_of_picture(drawn) == ["l.10", "l.2", "l.1"]


def test_a_page_elsewhere_does_not_link_the_texts(realistic: Path, made: Any) -> None:
    away = made.Page(page(Run.read(realistic), beside=False))
    assert not any(label == "report" for d in away.tables["models"]["details"] for label, _ in d)


def test_a_large_run_is_small_and_quick_to_read(make_run: MakeRun, made: Any) -> None:
    rows: list[Any] = []
    for model in (
        "deit_tiny_patch16_224",
        "resnet50",
        "convnext_tiny",
        "efficientnet_b0",
        "nfnet_f0",
    ):
        for policy, (weight, inputs, loss) in list(made.POLICIES.items())[:12]:
            row = made.model_row(
                model,
                policy,
                top1=max(75 - loss, 1),
                fp32=75.2,
                weight_bits=weight,
                input_bits=inputs,
            )
            row.details += made.model_layer_rows(row, "vit", 75)
            rows.append(row)
    formats = ["fp8_e4m3", "fp8_e4m3fnuz", "fp8_e5m2", "fp8_e5m2fnuz"]
    modes = ["tensor", "channel", "token", "chunk128", "mx32", "nv16"]
    rows += made.layer_rows(
        ["convnext", "efficientnet", "nfnet", "resnet", "vit"], formats, modes, 50
    )
    text = page(Run.read(make_run(*rows)))
    assert len(text.encode()) < 1_500_000
    made.Page(text)


def test_a_huge_run_stays_bounded(make_run: MakeRun, made: Any) -> None:
    rows: list[Any] = []
    for number in range(15):
        row = made.model_row(f"model{number}", "p", case=f"c{number}")
        row.details += made.model_layer_rows(row, count=300)
        row.details += made.violation_rows(row, 50)
        rows.append(row)
    drawn = draw(make_run(*rows), made)
    assert len(drawn.source) < 2_000_000
    assert drawn.tags.count("svg") == 24
    assert len(drawn.tables["models"]["rows"]) == 15
    assert "200 of 750 values off the grid" in drawn.visible


def hostile_rows() -> list[Any]:
    text = {"reason": ALERT, "violation": ALERT, "format": ALERT, "outcome": ALERT}
    row = ModelRow(
        case=ALERT, model=ALERT, policy=ALERT, formats=ALERT, dataset=ALERT, preprocessing=ALERT,
        top1=50.0, weight_bits=4.0, latency_ms=1.0, compliance=ALERT, compliant=False, **text,
    )  # fmt: skip
    row.details += [
        ModelLayerRow(
            case=ALERT,
            model=ALERT,
            policy=ALERT,
            layer=ALERT,
            layer_type=ALERT,
            reason=ALERT,
            sqnr_db=9.0,
        ),
        ViolationRow(case=ALERT, model=ALERT, policy=ALERT, layer=ALERT, role=ALERT, value=ALERT),
    ]
    layer = LayerRow(
        case=ALERT,
        model=ALERT,
        mode=ALERT,
        layer=ALERT,
        sqnr_db=3.0,
        weight_bits_per_value=4.0,
        slowdown=2.0,
        **text,
    )
    integer = IntegerRow(
        case=ALERT, model=ALERT, method=ALERT, audits=ALERT, refused=ALERT, top1=50.0,
        float_operations=1, audited_operations=2, **text,
    )  # fmt: skip
    integer.details.append(
        IntegerStageRow(
            case=ALERT, model=ALERT, method=ALERT, block=ALERT, stage=ALERT, sqnr_db=9.0
        )
    )
    return [
        row,
        layer,
        FormatRow(case=ALERT, distribution=ALERT, sqnr_db=1.0, **text),
        QuantizerRow(case=ALERT, mode=ALERT, shape=ALERT, **text),
        LinearRow(
            case=ALERT, entry=ALERT, dtype=ALERT, kernel=ALERT, entry_owner=ALERT, rows=1,
            in_features=4, out_features=4, latency_ms=1.0, fp32_latency_ms=2.0, **text,
        ),
        integer,
    ]  # fmt: skip


def test_nothing_of_a_run_is_markup(make_run: MakeRun, made: Any) -> None:
    folder = make_run(*hostile_rows(), machine=ALERT, plugins=ALERT, arguments=ALERT)
    journal = Journal(folder, {"run": ALERT}, joins=True)
    journal.left_float(ALERT, [{"module": ALERT, "module_type": ALERT, "reason": ALERT}])
    journal.started(ALERT)
    journal.close()
    drawn = draw(folder, made)
    assert "img" not in drawn.tags
    assert not any(name.startswith("on") for _, name, _ in drawn.attributes)
    scripts = drawn.tags.count("script")
    assert scripts == len(drawn.tables) + 1
    assert "<script>alert" not in drawn.source
    assert ALERT in drawn.visible  # the name itself is shown
    assert [row[0] for row in drawn.tables["models"]["rows"]] == [ALERT]


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, 0.0, -1.0])
@pytest.mark.parametrize("outcome", ["passed", "error"])
def test_any_number_may_be_anything(
    make_run: MakeRun, made: Any, value: float | None, outcome: str
) -> None:
    def numbers(kind: type) -> dict[str, Any]:
        hints = {
            n: a for base in kind.__mro__ for n, a in vars(base).get("__annotations__", {}).items()
        }
        return {name: value for name, hint in hints.items() if "float" in str(hint)}

    row = ModelRow(case="m-p", model="m", policy="p", outcome=outcome, **numbers(ModelRow))
    row.details.append(
        ModelLayerRow(case="m-p", model="m", policy="p", layer="l", **numbers(ModelLayerRow))
    )
    integer = IntegerRow(case="i", model="m", method="n", outcome=outcome, **numbers(IntegerRow))
    integer.details.append(
        IntegerStageRow(case="i", model="m", method="n", stage="s", **numbers(IntegerStageRow))
    )
    rows = [
        row,
        LayerRow(
            case="l",
            model="m",
            format="f",
            mode="o",
            layer="l",
            outcome=outcome,
            **numbers(LayerRow),
        ),
        FormatRow(case="f", format="f", distribution="d", outcome=outcome, **numbers(FormatRow)),
        QuantizerRow(case="q", format="f", mode="o", outcome=outcome, **numbers(QuantizerRow)),
        LinearRow(
            case="x", entry="x", rows=1, in_features=4, out_features=4, outcome=outcome,
            **numbers(LinearRow),
        ),
        integer,
    ]  # fmt: skip
    drawn = draw(make_run(*rows), made)
    assert "nan" not in re.findall(r"\w+", drawn.visible.lower())
    assert "None" not in drawn.visible
    for table in drawn.tables.values():
        json.dumps(table, allow_nan=False)


@pytest.mark.parametrize(
    "keep",
    [slice(0, 0), slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 4), slice(4, 5), slice(5, 6),
     slice(6, 7), slice(0, 2), slice(4, 6)],
    ids=["nothing", "model", "layer", "format", "quantizer", "linear", "integer", "failed linear",
         "model and layer", "linear and integer"],
)  # fmt: skip
def test_any_kind_of_case_may_be_absent(make_run: MakeRun, made: Any, keep: slice) -> None:
    rows = [made.model_row("m", "p"), *made.layer_rows(["vit"], ["f"], ["tensor"], 1)]
    small = made.small_rows()
    computed = [made.linear_rows()[0], made.integer_rows()[0], made.linear_rows()[-1]]
    drawn = draw(make_run(*[*rows, small[0], small[-1], *computed][keep]), made)
    links = {v for tag, n, v in drawn.attributes if tag == "a" and n == "href" and v != "#main"}
    ids = {f"#{v}" for tag, n, v in drawn.attributes if tag == "section" and n == "id"}
    assert links == ids


def test_one_policy_of_one_model(make_run: MakeRun, made: Any) -> None:
    drawn = draw(make_run(made.model_row("m", "p", top1=72.1)), made)
    assert "1 policy on m: fewest bits within 1 point of FP32 by p at" in drawn.visible


def test_cases_cut_off_are_told(make_run: MakeRun, made: Any) -> None:
    folder = make_run(made.model_row("m", "p"))
    (file,) = folder.glob("journal-*.jsonl")
    with file.open("a") as lines:
        lines.write('{"event":"started","case":"models/m-q"}\n{"event":"fin')
    drawn = draw(folder, made)
    assert "1 case began and did not end: models/m-q." in " ".join(drawn.visible.split())
    assert f"--qbench-resume {folder.name}" in drawn.visible
    assert "1 broken line of the journals left out" in drawn.visible


def test_an_older_run_without_newer_columns_has_a_page(make_run: MakeRun, made: Any) -> None:
    folder = make_run(made.model_row("m", "p"), arguments=None)
    (file,) = folder.glob("journal-*.jsonl")
    file.write_text(
        file.read_text().replace('"certainty":', '"older":').replace('"lost":', '"olden":')
    )
    assert draw(folder, made).column("models", "policy") == ["p"]
