"""The range rules that ship with the suite: which range of the values observed a scale covers."""

from __future__ import annotations

import re
from collections.abc import Callable

from qbench_ranges.entropy import Entropy
from qbench_ranges.extremes import AbsoluteMaximum, MovingAverage
from qbench_ranges.mse import LeastSquares
from qbench_ranges.percentile import Percentile
from qbench_suite import Family, RangeRule, hookimpl

RANGE_RULES: tuple[RangeRule, ...] = (
    AbsoluteMaximum(name="absmax", description="the whole range"),
    MovingAverage(
        name="moving_average",
        description="moving average over batches of the least and largest value; static scales only",
    ),
    Percentile(name="percentile", description="99.99 % of the magnitudes"),
    LeastSquares(name="mse", description="the range of least square error in the format itself"),
    Entropy(
        name="entropy",
        description="least divergence of the distribution of magnitudes, as TensorRT's calibration",
    ),
)


def percentile(match: re.Match[str]) -> RangeRule:
    """``percentile<P>``: P percent of the magnitudes lie within the range."""
    return Percentile(name=match[0], percent=float(match["percent"]))


@hookimpl
def qbench_register_range_rules(
    register: Callable[[RangeRule | Family[RangeRule]], None],
) -> None:
    """Register every rule of this module, and the family of percentiles."""
    for rule in RANGE_RULES:
        register(rule)
    register(Family("percentile<P>", r"percentile(?P<percent>[0-9]+(?:\.[0-9]+)?)", percentile))
