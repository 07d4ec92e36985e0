"""Notation: how numbers are written, special values included."""

from __future__ import annotations

import math
from typing import Any

import pytest

from qbench_suite.report import notation


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.005, "1.00"),
        (-0.001, "0.00"),
        (-1.5, "-1.50"),
        (None, ""),
        (math.nan, ""),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (1e300, "1e+300"),
        (3, "3.00"),
    ],
)
def test_fixed(value: Any, text: str) -> None:
    assert notation.fixed(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "+0.50"), (-0.5, "-0.50"), (0.0, "0.00"), (0.001, "0.00"), (None, "")]
)
def test_signed_never_signs_a_zero(value: Any, text: str) -> None:
    assert notation.signed(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (999, "999"),
        (1_258_000_000, "1.26 G"),
        (1500, "1.5 k"),
        (2.5e6, "2.5 M"),
        (3e12, "3 T"),
        (None, ""),
        (math.inf, "inf"),
        (math.nan, ""),
    ],
)
def test_compact(value: Any, text: str) -> None:
    assert notation.compact(value) == text


def test_significant() -> None:
    assert notation.significant(0.00012345) == "0.000123"
    assert notation.significant(math.inf) == "inf"
    assert notation.significant(None) == notation.significant(math.nan) == ""


def test_integers_have_commas() -> None:
    assert notation.integer(1234567) == "1,234,567"
    assert notation.integer(None) == ""


def test_interval_is_empty_where_an_end_is() -> None:
    assert notation.interval(1, 2) == "[1.00, 2.00]"
    assert notation.interval(None, 2) == notation.interval(1, None) == ""
    assert notation.with_interval(1.5, 1, 2, 1) == "1.5 [1.0, 2.0]"
    assert notation.with_interval(1.5, None, None, 1) == "1.5"


def test_verdict() -> None:
    assert [notation.verdict(v) for v in (True, False, None)] == ["yes", "no", ""]


def test_counts_have_their_plural() -> None:
    assert notation.count(1, "policy") == "1 policy"
    assert notation.count(1200, "policy") == "1,200 policies"
    assert notation.count(2, "layer case") == "2 layer cases"
    assert notation.count(0, "image") == "0 images"


def test_printable_is_one_line_without_control_characters() -> None:
    assert notation.printable("a\n\tb \x1b[31m\x00") == "a b \\x1b[31m\\x00"
    assert notation.printable("größe ✓") == "größe ✓"


def test_columns_of_wide_and_combining_characters() -> None:
    assert notation.columns("abc") == 3
    assert notation.columns("量子") == 4
    assert notation.columns("e\u0301") == 1
