"""The Pareto front against its definition, by brute force."""

from __future__ import annotations

import math
import random

import pytest

from qbench_suite.report.pareto import front

Points = list[tuple[float | None, float | None]]


def brute_force(points: Points) -> set[int]:
    def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    known = {
        i: (c, q)
        for i, (c, q) in enumerate(points)
        if c is not None and q is not None and not math.isnan(c) and not math.isnan(q)
    }
    return {i for i, p in known.items() if not any(dominates(o, p) for o in known.values())}


@pytest.mark.parametrize("seed", range(40))
def test_front_is_what_nothing_dominates(seed: int) -> None:
    numbers = random.Random(seed)
    choices = [*range(6), None, math.nan] if seed % 2 else list(range(30))
    points = [(numbers.choice(choices), numbers.choice(choices)) for _ in range(25)]
    assert front(points) == brute_force(points)


def test_equal_points_are_both_on_it() -> None:
    assert front([(4, 70), (4, 70), (4, 69)]) == {0, 1}


def test_nothing_has_no_front() -> None:
    assert front([]) == set()
    assert front([(None, 1.0), (1.0, math.nan)]) == set()
