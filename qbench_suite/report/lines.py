"""Line charts on two logarithmic axes, each line named at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench_suite.report.figures import canvas, written
from qbench_suite.report.svg import INK, inline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE = (520, 340)
#: Room for names at the right, and how far apart their lines are, in points.
_NAMES, _LINE = 118, 12.5
_LONGEST = 22
_COLOURS = ("accent", "good", "violet", "bad", "ink")
_MARKS = "osD^vP*X"


@dataclass(frozen=True)
class Line:
    """A line of a chart: (x, y) above 0 in order of x, and what the pointer shows at each."""

    name: str
    points: Sequence[tuple[float, float]]
    hints: Sequence[str]
    #: A line to compare with: dashed, without marks.
    reference: bool = False


def chart(lines: Sequence[Line], name: str, x_label: str, y_label: str, alt: str) -> str:
    """The figure ``name`` of ``lines``, described by ``alt``."""
    from matplotlib.ticker import LogLocator

    figure, axes = canvas(*_SIZE, left=46, right=_NAMES, top=10, bottom=36)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({x for line in lines for x, _ in line.points})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_yticks([], minor=True)
    axes.set_xlabel(x_label, color=INK["muted"])
    axes.set_ylabel(y_label, color=INK["muted"])
    hints: list[str] = []
    own = [line for line in lines if not line.reference]
    for line in lines:
        if line.reference:
            axes.plot(*zip(*line.points, strict=True), color=INK["muted"], linewidth=1.1,
                      linestyle=(0, (4, 3)), zorder=1)  # fmt: skip
        else:
            _draw(axes, line, own.index(line), hints)
    axes.autoscale_view()  # places of names are computed before anything is drawn
    _name_ends(axes, lines, [_colour(own.index(n)) if n in own else "muted" for n in lines])
    return inline(written(figure), name, alt, hints)


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _draw(axes: Axes, line: Line, number: int, hints: list[str]) -> None:
    """Every point has an element of its own, which the pointer finds."""
    colour = INK[_colour(number)]
    axes.plot(*zip(*line.points, strict=True), color=colour, linewidth=1.6)
    for (x, y), hint in zip(line.points, line.hints, strict=True):
        (mark,) = axes.plot([x], [y], _MARKS[number % len(_MARKS)], color=colour, markersize=6,
                            markeredgecolor=INK["card"], markeredgewidth=0.8)  # fmt: skip
        mark.set_gid(f"hint{len(hints)}")
        hints.append(hint)


def _name_ends(axes: Axes, lines: Sequence[Line], colours: Sequence[str]) -> None:
    """Names at the right, each as near the end of its line as the others leave it."""
    frame = axes.get_window_extent()
    ends = [float(axes.transData.transform(line.points[-1])[1]) for line in lines]
    heights = _apart(ends, frame.y0, frame.y1)
    for line, colour, height, (x, y) in zip(
        lines, colours, heights, (line.points[-1] for line in lines), strict=True
    ):
        left, end = axes.transData.transform((x, y))
        name = line.name if len(line.name) <= _LONGEST else f"{line.name[: _LONGEST - 1]}…"
        axes.annotate(
            name, (x, y), (frame.x1 + 10 - left, height - end - 3), textcoords="offset points",
            color=INK[colour],
            arrowprops={"arrowstyle": "-", "color": INK["grey"], "lw": 0.5, "shrinkA": 0, "shrinkB": 3},
        )  # fmt: skip


def _apart(heights: Sequence[float], low: float, high: float) -> list[float]:
    """``heights`` moved so that no two are nearer than a line of text, in their order."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed: list[float] = []
    for number in order:
        placed.append(max(heights[number], placed[-1] + _LINE if placed else low))
    excess = max(placed[-1] - high, 0.0) if placed else 0.0
    ceiling = high + _LINE
    for place in range(len(placed) - 1, -1, -1):
        ceiling = min(placed[place], ceiling - _LINE) if excess else placed[place]
        placed[place] = ceiling
    found = dict(zip(order, placed, strict=True))
    return [found[number] for number in range(len(heights))]
