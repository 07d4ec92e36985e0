"""Tables and pairs in plain text: aligned, and never too wide."""

from __future__ import annotations

from qbench_suite.report import notation
from qbench_suite.report.text_table import WIDTH, fixed, pair, table, words


def test_columns_are_aligned() -> None:
    rows = [{"name": "a", "x": 1.0}, {"name": "longer", "x": -10.25}, {"name": "", "x": None}]
    assert table([words("name", "name"), fixed("x", "x")], rows) == [
        "name         x",
        "------  ------",
        "a         1.00",
        "longer  -10.25",
        "-            -",
    ]


def test_wide_characters_keep_the_columns() -> None:
    rows = [{"name": "量子", "x": 1.0}, {"name": "ab", "x": 2.0}]
    lines = table([words("name", "name"), fixed("x", "x")], rows)
    assert {notation.columns(line) for line in lines} == {10}


def test_a_table_that_is_too_wide_loses_the_middle_of_long_texts() -> None:
    row = {"a": "first" + "x" * 200 + "last", "b": "y" * 90, "x": 1.0}
    lines = table([words("a", "a"), words("b", "b"), fixed("x", "x")], [row])
    assert max(map(len, lines)) == WIDTH
    assert lines[2].startswith("first")
    assert "..." in lines[2]
    assert lines[2].split("  ")[0].endswith("last")


def test_pairs_wrap_under_their_value_and_empty_ones_vanish() -> None:
    lines = pair("reason", "word " * 60)
    assert len(lines) > 1
    assert max(map(len, lines)) <= WIDTH
    assert {line.index("word") for line in lines} == {20}
    assert pair("reason", None) == pair("reason", "") == []
    assert pair("seed", 0) == ["seed                0"]


def test_one_endless_word_is_broken() -> None:
    assert max(map(len, pair("x", "z" * 500))) <= WIDTH
