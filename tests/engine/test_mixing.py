"""The greedy mix against every possible mix of small made-up tables."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbench_suite.engine.mixing import Option, choose
from qbench_suite.errors import SelectionError

Table = dict[str, dict[str, Option]]


def totals(table: Table, choice: Mapping[str, str]) -> tuple[float, float]:
    picked = [table[layer][name] for layer, name in choice.items()]
    return sum(o.bits for o in picked), sum(o.cost for o in picked)


def least_cost(table: Table, budget: float) -> float | None:
    """The least sum of costs within the budget, by trying every combination."""
    sums = [
        (sum(o.bits for o in combination), sum(o.cost for o in combination))
        for combination in itertools.product(*(options.values() for options in table.values()))
    ]
    return min((cost for bits, cost in sums if bits <= budget), default=None)


NUMBERS = st.integers(0, 40)
OPTIONS = st.dictionaries(
    st.sampled_from(["p", "q", "r"]), st.builds(Option, NUMBERS, NUMBERS), min_size=1
)
TABLES = st.dictionaries(st.sampled_from("abcd"), OPTIONS, min_size=1)


@settings(max_examples=300, deadline=None)
@given(TABLES, st.integers(0, 160))
def test_the_mix_is_within_budget_and_near_the_best(table: Table, budget: int) -> None:
    best = least_cost(table, budget)
    if best is None:
        with pytest.raises(SelectionError, match="budget is no less than"):
            choose(table, budget)
        return
    choice = choose(table, budget)
    assert set(choice) == set(table)
    bits, cost = totals(table, choice)
    assert bits <= budget
    # No step of any layer gains more than all there is to gain in it.
    largest = max(
        max(o.cost for o in options.values()) - min(o.cost for o in options.values())
        for options in table.values()
    )
    assert best <= cost <= best + largest


@given(TABLES)
def test_without_a_limit_each_layer_takes_its_best(table: Table) -> None:
    _, cost = totals(table, choose(table, 1e9))
    assert cost == least_cost(table, 1e9)


@settings(deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6), st.integers(0, 6))
def test_with_two_options_and_equal_layers_it_is_the_best(
    costs: list[tuple[int, int]], upgrades: int
) -> None:
    table = {
        str(i): {"low": Option(4, low), "high": Option(8, high)}
        for i, (low, high) in enumerate(costs)
    }
    budget = 4 * len(costs) + 4 * min(upgrades, len(costs))
    assert totals(table, choose(table, budget))[1] == least_cost(table, budget)


def test_the_best_gain_a_bit_goes_first() -> None:
    table = {
        "large": {"fp4": Option(400, 10.0), "fp8": Option(800, 0.0)},
        "small": {"fp4": Option(40, 5.0), "fp8": Option(80, 0.0)},
    }
    assert choose(table, 500) == {"large": "fp4", "small": "fp8"}
    assert choose(table, 880) == {"large": "fp8", "small": "fp8"}


def test_an_option_that_takes_more_and_does_worse_is_never_taken() -> None:
    table = {"a": {"good": Option(4, 1.0), "bad": Option(8, 2.0)}}
    assert choose(table, 100) == {"a": "good"}


def test_layers_without_weights_take_the_least_cost() -> None:
    table = {"attn": {"fp4": Option(0, 3.0), "fp8": Option(0, 1.0), "fp6": Option(0, 2.0)}}
    assert choose(table, 0) == {"attn": "fp8"}


def test_a_convex_corner_is_reached_by_one_step() -> None:
    """An option above the line between its neighbours is passed over, so that the other may be taken."""
    table = {
        "a": {"x": Option(0, 10.0), "y": Option(5, 9.5), "z": Option(10, 0.0)},
        "b": {"x": Option(0, 4.0), "y": Option(10, 0.0)},
    }
    assert choose(table, 10) == {"a": "z", "b": "x"}
