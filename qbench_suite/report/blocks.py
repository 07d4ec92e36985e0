"""Blocks of the page: cards, heatmaps with their values, matrices, strips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qbench_suite.report import figures, notation

#: Steps of colour in tables of SQNR.
LEVELS = 25
#: Values that are written out; of more there are only the picture and the run's tables.
_MOST_VALUES = 9000
#: Luminance on which black and white are read equally well: contrast 4.58 with either.
_MIDDLE = 0.179


@dataclass(frozen=True)
class Card:
    """A picture with a title and a line under it."""

    title: str
    note: str
    svg: str


@dataclass(frozen=True)
class Heatmap:
    """A picture of SQNR by layer and column, and its values as a table."""

    title: str
    svg: str
    columns: Sequence[str]
    #: (layer, [(text, level of colour; -1 where empty)]).
    rows: Sequence[tuple[str, Sequence[tuple[str, int]]]]


@dataclass(frozen=True)
class Matrix:
    """A table of cells (text, state, hint) by row name; state: good, bad or none."""

    corner: str
    columns: Sequence[str]
    rows: dict[str, list[tuple[str, str, str]]]


@dataclass(frozen=True)
class Strips:
    """Strips on one scale."""

    title: str
    scale: str
    strips: Sequence[dict[str, Any]]


def heatmap(
    name: str,
    title: str,
    table: tuple[Sequence[str], Sequence[str], Sequence[Sequence[float]]],
    about: str,
) -> Heatmap:
    """The heatmap ``name`` of ``table`` (rows, columns, values); ``about`` says what is on it."""
    rows, columns, values = table
    worst = min((v for line in values for v in line if not math.isnan(v)), default=math.nan)
    alt = f"{about}. {len(rows)} by {len(columns)}; the lowest is {notation.fixed(worst, 1)} dB."
    written = (
        [] if len(rows) * len(columns) > _MOST_VALUES else list(zip(rows, values, strict=True))
    )
    cells = [(row, [(notation.fixed(v, 1), level(v)) for v in line]) for row, line in written]
    return Heatmap(title, figures.heatmap(rows, columns, values, name, alt), columns, cells)


def level(sqnr_db: float | None) -> int:
    """The step of colour of an SQNR, 0 … ``LEVELS`` − 1; −1 for None and NaN."""
    if sqnr_db is None or math.isnan(sqnr_db):
        return -1
    low, high = figures.SQNR_RANGE_DB
    share = (min(max(sqnr_db, low), high) - low) / (high - low)
    return round(share * (LEVELS - 1))


def level_colours() -> list[tuple[str, str]]:
    """(background, ink that is read on it) of each step of colour."""
    return [
        (colour, "#fff" if _luminance(colour) < _MIDDLE else "#000")
        for colour in figures.colours(LEVELS)
    ]


def _luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb`` as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def strip(
    name: str,
    quartiles: tuple[float, float, float],
    end: float,
    numbers: str,
    *,
    least: float | None = None,
    reference: float | None = None,
) -> dict[str, Any]:
    """A strip from 0 to ``end``: a bar over the quartiles, and places in per cent of its length."""

    def place(value: float | None) -> str | None:
        return None if value is None else f"{min(max(100 * value / end, 0), 100):.2f}"

    low, middle, high = (place(q) for q in quartiles)
    return {
        "name": name,
        "low": low,
        "width": f"{float(high or 0) - float(low or 0):.2f}",
        "middle": middle,
        "least": place(least),
        "reference": place(reference),
        "numbers": numbers,
    }
