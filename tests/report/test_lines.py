"""Line charts: every line named, named apart, and read under the pointer."""

from __future__ import annotations

import itertools
import re

import pytest

pytest.importorskip("matplotlib")

from qbench_suite.report.lines import Line, chart


def line(name: str, *heights: float) -> Line:
    points = [(2.0**i, height) for i, height in enumerate(heights)]
    return Line(name, points, [f"hint of {name} {i}" for i in range(len(points))])


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def heights(svg: str, names: list[str]) -> list[float]:
    """Where the names are, from the top, in points."""
    found = []
    for name in names:
        (tag,) = re.findall(rf"<text([^>]*)>{re.escape(name)}</text>", svg)
        place = re.search(r'translate\([-\d.]+[ ,]+([-\d.]+)\)|y="([-\d.]+)"', tag)
        assert place, tag
        found.append(float(place[1] or place[2]))
    return found


def test_lines_are_named_and_points_have_hints() -> None:
    reference = Line("FP32", [(1.0, 5.0), (2.0, 6.0)], [], reference=True)
    svg = chart([reference, line("a", 1, 2), line("b", 3, 9)], "f", "rows", "ms", "about")
    assert {"FP32", "a", "b", "rows", "ms", "1", "2"} <= set(texts(svg))
    assert re.findall(r"<title>([^<]*)</title>", svg) == [
        f"hint of {name} {i}" for name in "ab" for i in range(2)
    ]
    assert 'aria-label="about"' in svg


@pytest.mark.parametrize("end", [1.0, 1e-3, 1e6])
def test_names_of_lines_that_end_together_stand_apart(end: float) -> None:
    names = [f"line{i}" for i in range(9)]
    svg = chart([line(name, 5.0, end) for name in names], "f", "x", "y", "about")
    places = sorted(heights(svg, names))
    assert all(b - a > 12 for a, b in itertools.pairwise(places))
    box = re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', svg)
    assert box
    assert places[0] > 0
    assert places[-1] < float(box[1])


def test_names_far_apart_stay_at_their_lines() -> None:
    svg = chart([line("low", 1, 1), line("high", 1, 1000)], "f", "x", "y", "about")
    low, high = heights(svg, ["low", "high"])
    assert low - high > 200, "svg counts from the top"


def test_a_single_point_is_a_chart() -> None:
    svg = chart([line("a", 1.0)], "f", "x", "y", "about")
    assert "<title>hint of a 0</title>" in svg


def test_long_names_are_cut() -> None:
    svg = chart([line("x" * 40, 1, 2)], "f", "x", "y", "about")
    assert "x" * 21 + "…" in texts(svg)


def test_one_drawing_gives_one_file() -> None:
    lines = [line("a", 1, 2)]
    assert chart(lines, "f", "x", "y", "z") == chart(lines, "f", "x", "y", "z")
