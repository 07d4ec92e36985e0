"""Figures: matplotlib drawings as inline SVG in the colours of the page, light or dark.

Texts stay text in the page's own font; colours are the page's variables; whatever is drawn with a
hint shows it under the pointer.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qbench_suite.report.labels import LONGEST, place
from qbench_suite.report.svg import INK, inline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

#: SQNR that the colours of a heatmap span, in dB: the same in every report, so that runs compare.
SQNR_RANGE_DB = (0.0, 48.0)
#: How far below the reference a front is drawn to scale, in units of y.
SPAN = 20.0

#: A pixel is a point, and that is the unit of SVG.
_DPI = 72
_FONT = 9.5
_FRONT_SIZE = (470, 330)
_ROW, _TALLEST = 11.0, 540.0
_CHARACTER = 5.2
_TICKS = (1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32)


@dataclass(frozen=True)
class Point:
    """A point of a front: what it costs, how good it is, and the interval that is uncertain."""

    bits: float
    value: float
    low: float
    high: float
    name: str
    #: front, dominated or failed.
    state: str
    #: What the pointer shows.
    hint: str


def front(
    points: Sequence[Point], name: str, y_label: str, reference: tuple[str, float] | None, alt: str
) -> str:
    """Quality against bits with its front; the figure is called ``name``, ``alt`` describes it.

    ``reference``: name and height of a dashed line, that of FP32. With it, points more than
    ``SPAN`` below what is best are drawn at the lower edge as triangles.
    """
    figure, axes = canvas(*_FRONT_SIZE, left=42, right=10, top=10, bottom=36)
    top = max([p.high for p in points] + ([reference[1]] if reference else []))
    floor = min(p.low for p in points)
    if reference:
        floor = max(floor, top - SPAN)
    room = max((top - floor) * 0.08, 1e-3)
    _scale(axes, points)
    axes.set_ylim(floor - room, top + room)
    axes.set_xlabel("bits a weight, with its share of scales", color=INK["muted"])
    axes.set_ylabel(y_label, color=INK["muted"])
    points = _together(points)
    drawn = sorted(points, key=lambda p: p.state == "front")  # the front lies on top
    for number, point in enumerate(drawn):
        _mark(axes, point, floor).set_gid(f"hint{number}")
    best = sorted((p for p in points if p.state == "front"), key=lambda p: p.bits)
    if best:
        _staircase(axes, best, floor)
    place(axes, points, best, floor, reference)
    return inline(written(figure), name, alt, [p.hint for p in drawn])


def _together(points: Sequence[Point]) -> list[Point]:
    """``points`` with those of one state at one place made one, whose hint names all at that place."""
    places: dict[tuple[float, float], list[Point]] = {}
    for point in points:
        places.setdefault((round(point.bits, 3), round(point.value, 3)), []).append(point)
    return [
        replace(
            same[0],
            low=min(p.low for p in same),
            high=max(p.high for p in same),
            name=_names([p.name for p in same]),
            hint="\n".join(p.hint for p in group),
        )
        for group in places.values()
        for state in dict.fromkeys(p.state for p in group)
        if (same := [p for p in group if p.state == state])
    ]


def _names(names: Sequence[str]) -> str:
    """The names joined; where that is more than a label holds, the first and how many more."""
    joined = ", ".join(names)
    if len(names) == 1 or len(joined) <= LONGEST:
        return joined
    more = f" + {len(names) - 1}"
    return _start(names[0], LONGEST - len(more)) + more


def _start(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _mark(axes: Axes, point: Point, floor: float) -> Line2D:
    colour = INK[{"front": "accent", "failed": "bad"}.get(point.state, "grey")]
    below = point.value < floor
    if not below:
        axes.plot([point.bits] * 2, [max(point.low, floor), point.high], color=colour, linewidth=1,
                  alpha=0.6)  # fmt: skip
    (mark,) = axes.plot(
        [point.bits],
        [max(point.value, floor)],
        "v" if below else {"front": "o", "failed": "X"}.get(point.state, "o"),
        color=colour,
        markersize=5.5 if point.state == "dominated" else 7,
        markeredgecolor=INK["card"],
        markeredgewidth=0.9,
    )
    return mark


def _staircase(axes: Axes, best: Sequence[Point], floor: float) -> None:
    x = [*(p.bits for p in best), axes.get_xlim()[1]]
    y = [*(max(p.value, floor) for p in best), best[-1].value]
    axes.step(x, y, where="post", color=INK["accent"], linewidth=3, alpha=0.25, zorder=1)


def _scale(axes: Axes, points: Sequence[Point]) -> None:
    low, high = min(p.bits for p in points), max(p.bits for p in points)
    if low > 0 and high > 4 * low:
        axes.set_xscale("log", base=2)
        low, high = low / 1.2, high * 1.25
    else:
        room = max((high - low) * 0.1, 0.4)
        low, high = low - room, high + room
    ticks = [t for t in _TICKS if low <= t <= high]
    if len(ticks) > 1:
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.set_xticks([], minor=True)
    axes.set_xlim(low, high)


def heatmap(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    name: str,
    alt: str,
) -> str:
    """SQNR in dB by layer and column, the first layer on top; NaN cells are blank.

    Colours span ``SQNR_RANGE_DB``; what lies beyond, ±Inf too, has the colour of its end.
    """
    left = min(max(map(len, rows)), 30) * _CHARACTER + 8
    top = min(max(map(len, columns)), 22) * _CHARACTER * 0.75 + 10
    cell = min(max(320 / len(columns), 13.5), 30)
    height = min(len(rows) * _ROW, _TALLEST)
    right = max(top - cell / 2, 4)  # the last column's name leans out
    size = (left + cell * len(columns) + right, top + height + 4)
    figure, axes = canvas(*size, left=left, right=right, top=top, bottom=4)
    # The image has a pixel a cell; the page scales it without blur.
    axes.imshow(_clipped(values), cmap="cividis", aspect="auto", interpolation="none",
                vmin=SQNR_RANGE_DB[0], vmax=SQNR_RANGE_DB[1])  # fmt: skip
    axes.set_axis_off()
    # Ticks would do the same, at several times the cost.
    step = math.ceil(len(rows) * _ROW / height)
    for number, row in list(enumerate(rows))[::step]:
        axes.text(
            -0.5 - 3 / cell, number, _end(row, 30), ha="right", va="center", color=INK["muted"]
        )
    for number, column in enumerate(columns):
        axes.text(number, -0.5 - 4 * len(rows) / height, _end(column, 22), rotation=45, ha="left",
                  rotation_mode="anchor", color=INK["muted"])  # fmt: skip
    return inline(written(figure), name, alt, [])


def _clipped(values: Sequence[Sequence[float]]) -> Any:
    import numpy as np

    low, high = SQNR_RANGE_DB
    return np.clip(np.asarray(values, dtype=float), low, high)  # NaN stays, and is drawn as nothing


def colours(number: int) -> list[str]:
    """``number`` colours from the lower to the upper end of ``SQNR_RANGE_DB``, as ``#rrggbb``."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    map = colormaps["cividis"]
    return [to_hex(map(i / (number - 1))) for i in range(number)]


def _end(text: str, longest: int) -> str:
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return plain if len(plain) <= longest else f"…{plain[1 - longest :]}"


def canvas(
    width: float, height: float, *, left: float, right: float, top: float, bottom: float
) -> tuple[Figure, Axes]:
    """An empty figure and its axes; every length in points, as SVG has them."""
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    axes = figure.add_axes(
        (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    )
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    axes.grid(visible=True, color=INK["line"], linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK["muted"], length=0, labelsize=_FONT)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK["line"])
    return figure, axes


#: Texts stay text, ``$`` means a dollar, and one drawing gives one file.
_SETTINGS = {"svg.fonttype": "none", "text.parse_math": False, "svg.hashsalt": "qbench"}


def written(figure: Figure) -> str:
    """``figure`` as an SVG file."""
    from matplotlib import rc_context

    for artist in figure.findobj():
        artist.set_clip_on(False)
        if hasattr(artist, "set_parse_math"):
            artist.set_parse_math(False)
        if hasattr(artist, "set_fontsize"):
            artist.set_fontsize(_FONT)
    file = io.StringIO()
    settings: Any = _SETTINGS  # its stubs list every key there is
    with rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name may hold characters that its font has not
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
