"""Rows: plain JSON, every column documented, and the README that says so."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path

import pytest

from qbench_suite.results import (
    ROW_TYPES,
    LayerRow,
    ModelLayerRow,
    ModelRow,
    Row,
    RunColumns,
    ViolationRow,
    columns_markdown,
)
from qbench_suite.results.schema import DETAIL_TYPES, columns_of

README = Path(__file__).parent.parent.parent / "results" / "README.md"
TABLES = [*ROW_TYPES, *DETAIL_TYPES, RunColumns]


def test_row_is_plain_json_whatever_its_numbers_are() -> None:
    row = LayerRow(mse=math.nan, sqnr_db=math.inf, max_abs_err=-math.inf, cosine=0.1, violations=0)
    plain = json.loads(json.dumps(row.to_json(), allow_nan=False))
    assert (plain["mse"], plain["sqnr_db"], plain["max_abs_err"]) == (None, "inf", "-inf")
    assert (plain["cosine"], plain["violations"], plain["rounds"]) == (0.1, 0, None)
    assert set(plain) == {f.name for f in fields(LayerRow)} - {"details"}


@pytest.mark.parametrize("row_type", ROW_TYPES)
def test_row_begins_as_an_error_without_numbers(row_type: type[Row]) -> None:
    row = row_type()
    assert row.outcome == "error"
    assert {v for v in row.to_json().values() if isinstance(v, float)} == set()


def test_extra_info_is_short() -> None:
    row = LayerRow(case="a", outcome="passed", mse=1 / 3, sqnr_db=math.inf, seed=4, compliant=False)
    extra = row.to_extra_info()
    assert extra["mse"] == 0.3333333
    assert (extra["sqnr_db"], extra["compliant"], extra["outcome"]) == ("inf", False, "passed")
    assert not {"seed", "device", "cosine", "reason"} & extra.keys()
    json.dumps(extra, allow_nan=False)


@pytest.mark.parametrize("row_type", TABLES)
def test_every_column_is_documented(row_type: type[Row] | type[RunColumns]) -> None:
    columns = [f for f in fields(row_type) if f.name != "details"]
    assert columns_of(row_type) == columns, "a field without a meaning"
    for column in columns_of(row_type):
        assert column.metadata["meaning"]
        assert not column.metadata["meaning"].endswith("."), column.name


UNITS = {"_ms": "ms", "_db": "dB", "_bytes": "bytes", "_count": "values", "_bits": "bits"}


@pytest.mark.parametrize("row_type", ROW_TYPES)
def test_names_that_end_in_a_unit_are_in_it(row_type: type[Row]) -> None:
    for column in columns_of(row_type):
        for ending, unit in UNITS.items():
            if column.name.endswith(ending):
                assert column.metadata["unit"] == unit, column.name


def test_tables_have_names_of_their_own() -> None:
    names = [t.table for t in (*ROW_TYPES, *DETAIL_TYPES)]
    assert names == [
        "layers", "formats", "quantizers", "models", "linears", "integers", "norms",
        "model_layers", "violations", "integer_stages", "norm_outputs",
    ]  # fmt: skip


def test_details_are_plain_json_by_table() -> None:
    row = ModelRow(case="a")
    row.details = [
        ModelLayerRow(case="a", layer="x", mse=math.nan),
        ViolationRow(case="a", layer="x"),
        ModelLayerRow(case="a", layer="y", sqnr_db=math.inf),
    ]
    tables = json.loads(json.dumps(row.details_to_json(), allow_nan=False))
    assert [r["layer"] for r in tables["model_layers"]] == ["x", "y"]
    assert (tables["model_layers"][0]["mse"], tables["model_layers"][1]["sqnr_db"]) == (None, "inf")
    assert len(tables["violations"]) == 1
    assert "details" not in row.to_json()


def test_markdown_says_each_column_of_each_table_once() -> None:
    text = columns_markdown()
    for row_type in TABLES:
        for column in columns_of(row_type):
            assert f"| `{column.name}` |" in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert all(line.count(" | ") == 2 for line in rows)
    sections = text.split("## ")
    for section in sections:
        names = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
        assert len(names) == len(set(names))


def test_readme_of_results_is_current() -> None:
    text = README.read_text(encoding="utf-8")
    introduction, _, generated = text.partition("\n## Every table\n")
    assert "journal-*.jsonl" in introduction
    assert "## Every table\n" + generated == columns_markdown(), (
        "write `qbench list columns` below the introduction of results/README.md"
    )
