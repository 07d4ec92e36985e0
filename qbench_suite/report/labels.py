"""Labels of points, each where it covers neither a point nor another label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from qbench_suite.report.svg import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from qbench_suite.report.figures import Point

#: (left, bottom, right, top) in points of the figure.
Box = tuple[float, float, float, float]
#: Where a label is anchored, in points from its point, and which end of it is anchored.
Offset = tuple[float, float, Literal["left", "right"]]

_CHARACTER, _LINE = 5.3, 11.0
#: Characters of the longest label.
LONGEST = 30
#: Where a label may go: offset of its anchor in points, and which end of it that is.
_PLACES: tuple[Offset, ...] = (
    (-6, 6, "right"), (7, -12, "left"), (7, 5, "left"), (-6, -14, "right"), (-6, 18, "right"),
    (7, -24, "left"), (7, 18, "left"), (-6, -26, "right"), (-6, 32, "right"), (7, -38, "left"),
)  # fmt: skip
#: Where that of a point on the lower edge may go.
_ABOVE: tuple[Offset, ...] = ((-3, 8, "left"), (-3, 22, "left"), (-3, 36, "left"), (-3, 50, "left"))
#: A label farther off than this is joined to its point by a line.
_NEAR = 15


def place(
    axes: Axes,
    points: Sequence[Point],
    labelled: Sequence[Point],
    floor: float,
    reference: tuple[str, float] | None,
) -> None:
    """Label the points ``labelled`` with their names, and the height ``reference`` with its own.

    A point below ``floor`` is drawn on it. A label without any free place takes the first.
    """
    frame = axes.get_window_extent()
    places = {id(p): _position(axes, p, floor) for p in points}
    taken: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in places.values()]
    if reference:
        taken.append(_reference(axes, *reference))
    for point in reversed(labelled):  # from the right, as a front leaves room at its left
        name = point.name if len(point.name) <= LONGEST else f"{point.name[: LONGEST - 1]}…"
        x, y = places[id(point)]
        below = point.value < floor
        choices = [
            (_at(x, y, offset, len(name)), offset) for offset in (_ABOVE if below else _PLACES)
        ]
        inside = [c for c in choices if _within(c[0], (frame.x0, frame.y0, frame.x1, frame.y1))]
        free = [c for c in inside if not any(_meet(c[0], other) for other in taken)]
        others = [place for key, place in places.items() if key != id(point)]
        clear = [c for c in free if all(_far(c[0], (x, y)) < _far(c[0], o) for o in others)]
        box, offset = (clear or free or inside or choices)[0]
        taken.append(box)
        _write(axes, name, (point.bits, max(point.value, floor)), offset, joined=not clear)


def _write(
    axes: Axes, text: str, anchor: tuple[float, float], offset: Offset, *, joined: bool
) -> None:
    """``joined``: the label is nearer to another point, so a line leads to its own."""
    dx, dy, end = offset
    line = {"arrowstyle": "-", "color": INK["grey"], "lw": 0.6, "shrinkA": 0, "shrinkB": 4}
    axes.annotate(
        text, anchor, (dx, dy), textcoords="offset points", ha=end, color=INK["ink"],
        arrowprops=line if joined or abs(dy) > _NEAR else None,
    )  # fmt: skip


def _reference(axes: Axes, name: str, height: float) -> Box:
    """A dashed line at ``height`` with its name at the left, where little is; gives the name's box."""
    axes.axhline(height, color=INK["muted"], linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    text = f"{name} {height:.2f}"
    left, y = axes.get_xlim()[0], float(axes.transData.transform((1, height))[1])
    axes.annotate(
        text, (left, height), (5, 4), textcoords="offset points", color=INK["muted"], ha="left"
    )
    return _at(axes.get_window_extent().x0, y, (5, 4, "left"), len(text))


def _position(axes: Axes, point: Point, floor: float) -> tuple[float, float]:
    x, y = axes.transData.transform((point.bits, max(point.value, floor)))
    return float(x), float(y)


def _box(x: float, y: float, width: float, height: float) -> Box:
    return x, y, x + width, y + height


def _at(x: float, y: float, offset: Offset, characters: int) -> Box:
    dx, dy, end = offset
    width = characters * _CHARACTER
    left = x + dx - (width if end == "right" else 0)
    return _box(left, y + dy - 2, width, _LINE)


def _within(box: Box, frame: Box) -> bool:
    return (
        box[0] >= frame[0]
        and box[1] >= frame[1]
        and box[2] <= frame[2]
        and box[3] <= frame[3] + _LINE
    )


def _far(box: Box, place: tuple[float, float]) -> float:
    """Distance of ``place`` from ``box``."""
    x, y = place
    return math.hypot(max(box[0] - x, 0, x - box[2]), max(box[1] - y, 0, y - box[3]))


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
