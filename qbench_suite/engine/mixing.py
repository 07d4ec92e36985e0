"""Mixing: which option each layer takes, so that the sum of costs is small within a budget of bits."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from qbench_suite.errors import SelectionError


@dataclass(frozen=True)
class Option:
    """What one choice for one layer takes and does."""

    #: Bits that its weights take, all of them together.
    bits: float
    #: What it costs in accuracy; costs of layers are taken to add up.
    cost: float


class _Step(NamedTuple):
    """From one option of a layer to a better one that takes more bits."""

    layer: str
    #: Which step of that layer it is, from 0.
    place: int
    gain: float
    bits: float


def choose(layers: Mapping[str, Mapping[str, Option]], budget: float) -> dict[str, str]:
    """The name of an option for each layer, all together at most ``budget`` bits.

    Each layer begins with its cheapest option; then, while bits are left, the step with the best gain
    in cost per bit is taken, of those to the next option on the lower convex hull of each layer's
    (bits, cost). A step that does not fit ends its layer, and the others go on. This is the greedy
    algorithm of the multiple-choice knapsack problem (Kellerer, Pferschy and Pisinger, Knapsack
    Problems, 2004, section 11.2): its sum of costs is above the least one by less than the gain of the
    first step that does not fit, and is the least one where all fit.

    Options without bits of their own (layers without weights) take the one of least cost. Raises
    ``SelectionError`` for a budget below the sum of the cheapest options.
    """
    hulls = {layer: _hull(options) for layer, options in layers.items()}
    taken = sum(layers[layer][hull[0]].bits for layer, hull in hulls.items())
    if taken > budget * (1 + 1e-12):
        raise SelectionError(
            f"A budget is no less than the cheapest options take; got {budget:.0f} bits, they take "
            f"{taken:.0f}. Raise --bits, or add a cheaper candidate."
        )
    steps = [
        _Step(layer, index, a.cost - b.cost, b.bits - a.bits)
        for layer, hull in hulls.items()
        for index, (a, b) in enumerate(
            (layers[layer][first], layers[layer][second])
            for first, second in itertools.pairwise(hull)
        )
    ]
    # Within a layer ratios fall along the hull, so a stable sort keeps its steps in order.
    steps.sort(key=lambda step: -step.gain / step.bits)
    at = dict.fromkeys(layers, 0)
    for step in steps:
        if at[step.layer] == step.place and taken + step.bits <= budget * (1 + 1e-12):
            taken += step.bits
            at[step.layer] += 1
    return {layer: hulls[layer][place] for layer, place in at.items()}


def _hull(options: Mapping[str, Option]) -> list[str]:
    """Names of the options on the lower convex hull of (bits, cost), by bits; each costs less."""
    hull: list[str] = []
    for name in sorted(options, key=lambda name: (options[name].bits, options[name].cost)):
        option = options[name]
        if hull and option.cost >= options[hull[-1]].cost:
            continue
        while len(hull) > 1 and not _convex(options[hull[-2]], options[hull[-1]], option):
            hull.pop()
        hull.append(name)
    return hull


def _convex(first: Option, middle: Option, last: Option) -> bool:
    """Whether ``middle`` lies below the line from ``first`` to ``last``."""
    steep = (first.cost - middle.cost) * (last.bits - middle.bits)
    flat = (middle.cost - last.cost) * (middle.bits - first.bits)
    return steep > flat
