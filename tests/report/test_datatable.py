"""What the script reads: valid JSON that HTML cannot misread."""

from __future__ import annotations

import json
import math

from qbench_suite.report.datatable import Column, datatable, text


def test_rows_columns_and_details() -> None:
    rows = [{"a": "x", "b": 1 / 3, "c": None}, {"a": "y", "b": 2, "c": ""}]
    table = datatable(
        "t", "caption", [text("a", "A"), Column("b", "B", "dB"), text("c", "C")], rows,
        details=lambda row: {"more": row["a"], "none": None, "empty": ""},
    )  # fmt: skip
    assert (table.id, table.caption, table.rows) == ("t", "caption", 2)
    assert json.loads(table.json) == {
        "columns": [
            {"label": "A", "unit": "", "kind": "text", "digits": 2, "wide": False},
            {"label": "B", "unit": "dB", "kind": "number", "digits": 2, "wide": False},
        ],
        "rows": [["x", 0.333333], ["y", 2]],
        "details": [[["more", "x"]], [["more", "y"]]],
    }


def test_notes_stand_beside_their_cell() -> None:
    columns = [text("a", "A", wide=True), Column("b", "B", note=lambda row: f"±{row['b']}")]
    content = json.loads(datatable("t", "", columns, [{"a": "x", "b": 1}]).json)
    assert content["notes"] == [["", "±1"]]
    assert [column["wide"] for column in content["columns"]] == [True, False]


def test_special_values() -> None:
    rows = [{"a": v} for v in (math.nan, math.inf, -math.inf, True, -0.0)]
    content = json.loads(datatable("t", "", [Column("a", "A")], rows).json)
    assert content["rows"] == [[None], ["inf"], ["-inf"], [True], [-0.0]]


def test_no_text_ends_the_script() -> None:
    hostile = "</script><script>alert(1)</script><!--<script> & \u2028"
    table = datatable("t", "", [text("a", "A")], [{"a": hostile}])
    assert not set("<>&") & set(table.json)
    assert json.loads(table.json)["rows"] == [[hostile]]


def test_a_table_without_any_value_is_valid() -> None:
    content = json.loads(datatable("t", "", [text("a", "A")], [{"a": None}, {}]).json)
    assert content == {"columns": [], "rows": []} or content["columns"] == []
