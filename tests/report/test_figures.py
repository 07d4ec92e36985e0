"""Figures: what is on them, in the colours of the page, whatever the numbers."""

from __future__ import annotations

import base64
import io
import math
import re
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from PIL import Image

from qbench_suite.report.blocks import LEVELS, level, level_colours
from qbench_suite.report.figures import SQNR_RANGE_DB, Point, front, heatmap


def point(name: str, bits: float, value: float, state: str = "front") -> Point:
    return Point(bits, value, value - 1, value + 1, name, state, f"hint of {name}")


POINTS = [
    point("low", 2, 20.0),
    point("mid", 4, 70.0),
    point("worse", 5, 69.0, "dominated"),
    point("off", 6, 71.0, "failed"),
    point("top", 8, 72.0),
]


def pixels(svg: str) -> np.ndarray:
    """The image in a heatmap as (rows, columns, RGBA)."""
    (data,) = re.findall(r'href="data:image/png;base64,\s*([^"]+)"', svg)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))


def test_only_the_front_has_labels_and_every_point_a_hint() -> None:
    svg = front(POINTS, "f", "top-1 (%)", ("FP32", 72.15), "about")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"low", "mid", "top", "FP32 72.15", "top-1 (%)"} <= set(texts)
    assert not {"worse", "off"} & set(texts)
    assert sorted(re.findall(r"<title>hint of (\w+)</title>", svg)) == sorted(
        p.name for p in POINTS
    )


def test_points_at_one_place_are_named_together() -> None:
    points = [point("fp8_x", 8, 70.0), point("int8_y", 8, 70.0), point("off", 8, 70.0, "failed")]
    svg = front(points, "f", "y", None, "about")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert "fp8_x, int8_y" in texts
    hints = re.findall(r"<title>([^<]*)</title>", svg)
    assert hints == ["hint of fp8_x\nhint of int8_y\nhint of off"] * 2


def test_many_names_at_one_place_are_counted() -> None:
    points = [point(f"{'long' * 5}{n}", 8, 70.0) for n in range(4)]
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", front(points, "f", "y", None, "about"))
    assert f"{'long' * 5}0 + 3" in texts


def test_a_figure_has_the_colours_of_the_page_and_no_address() -> None:
    svg = front(POINTS, "f", "y", None, "about")
    assert {"var(--accent)", "var(--grey)", "var(--bad)", "var(--muted)"} <= set(
        re.findall(r"var\(--\w+\)", svg)
    )
    assert not re.search(r"#0([1-7])0(?:\1)0\1", svg)
    assert "http" not in svg
    assert "url(" not in svg


def test_one_drawing_gives_one_file() -> None:
    assert front(POINTS, "f", "y", None, "a") == front(POINTS, "f", "y", None, "a")


@pytest.mark.parametrize(
    "points",
    [
        [point("only", 4, 50.0)],
        [point("a", 4, 50.0), point("b", 4, 50.0)],
        [point("a", 4, 50.0, "failed")],
        [point("a", 1, 0.0), point("b", 32, 100.0)],
        [point("$x$ {} \\frac <b> & \x00量" * 9, 4, 50.0)],
        [point(f"p{n}", n / 7, float(n)) for n in range(60)],
    ],
    ids=["one", "equal", "none on the front", "far apart", "hostile", "many"],
)
def test_any_points_can_be_drawn(points: list[Point], made: Any) -> None:
    svg = front(points, "f", "y", ("FP32", 60.0), "about")
    made.Page(svg)


def test_a_heatmap_has_a_pixel_a_cell_in_the_fixed_range() -> None:
    low, high = SQNR_RANGE_DB
    values = [[low, high, math.nan], [-math.inf, math.inf, (low + high) / 2]]
    image = pixels(heatmap(["a", "b"], ["x", "y", "z"], values, "h", "about"))
    assert image.shape[:2] == (2, 3)
    assert image[0, 0].tolist() == image[1, 0].tolist()
    assert image[0, 1].tolist() == image[1, 1].tolist()
    assert image[0, 2, 3] == 0  # blank
    assert image[0, 0].tolist() != image[0, 1].tolist() != image[1, 2].tolist()


def test_the_colour_of_a_value_is_the_same_in_every_picture() -> None:
    one = pixels(heatmap(["a"], ["x"], [[20.0]], "h", ""))
    other = pixels(heatmap(["a", "b"], ["x"], [[20.0], [-5.0]], "h", ""))
    assert one[0, 0].tolist() == other[0, 0].tolist()


@pytest.mark.parametrize("shape", [(1, 1), (300, 2), (3, 90), (2, 1)])
def test_any_size_can_be_drawn(shape: tuple[int, int], made: Any) -> None:
    rows, columns = (
        [f"{axis}<{n}>$" for n in range(size)] for axis, size in zip("rc", shape, strict=True)
    )
    svg = heatmap(rows, columns, [[10.0] * shape[1]] * shape[0], "h", "about")
    made.Page(svg)
    width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
    assert height < 700
    assert width < 1500


def test_levels_of_colour() -> None:
    low, high = SQNR_RANGE_DB
    assert [level(v) for v in (None, math.nan, low - 9, -math.inf, high + 9, math.inf)] == [
        -1, -1, 0, 0, LEVELS - 1, LEVELS - 1,
    ]  # fmt: skip
    assert sorted({level(v) for v in np.linspace(low, high, 400)}) == list(range(LEVELS))


def test_values_can_be_read_on_their_colour() -> None:
    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
        channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for background, ink in level_colours():
        light, dark = sorted((luminance(background), luminance(ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (background, ink)
