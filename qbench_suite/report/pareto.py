"""The Pareto front: what is beaten by nothing else in both cost and quality."""

from __future__ import annotations

import math
from collections.abc import Sequence


def front(points: Sequence[tuple[float | None, float | None]]) -> set[int]:
    """Numbers of the points (cost, quality) that no other dominates.

    A point dominates another if its cost is no higher and its quality no lower, and one of the two is
    better; equal points are both on the front. A point with an empty or NaN coordinate never is.
    """
    known = [
        (cost, -quality, number)
        for number, (cost, quality) in enumerate(points)
        if cost is not None and quality is not None and not math.isnan(cost + quality)
    ]
    best, best_cost = math.inf, math.nan
    found = set()
    for cost, loss, number in sorted(known):  # by cost, then the best quality first
        if loss < best or (loss == best and cost == best_cost):
            best, best_cost = loss, cost
            found.add(number)
    return found
