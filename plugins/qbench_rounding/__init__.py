"""The rounding rules of weights: to nearest, and two that learn from calibration images."""

from __future__ import annotations

from collections.abc import Callable

from qbench_suite import GPTQ, AdaRound, Nearest, RoundingRule, hookimpl

ROUNDING_RULES: tuple[RoundingRule, ...] = (
    Nearest(name="nearest", description="to the nearest value, each weight for itself"),
    AdaRound(
        name="adaround",
        description="up or down learnt by gradient descent on the layer's output error",
    ),
    GPTQ(
        name="gptq",
        description="column by column, the columns to come make up for the error so far",
    ),
)


@hookimpl
def qbench_register_rounding_rules(register: Callable[[RoundingRule], None]) -> None:
    """Register every rule of this module."""
    for rule in ROUNDING_RULES:
        register(rule)
