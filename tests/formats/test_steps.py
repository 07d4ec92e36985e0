"""Step rounders: integers from non-negative floats, exactly."""

from __future__ import annotations

import pytest
import torch

from qbench_suite import Rounding
from qbench_suite.formats.steps import STEP_ROUNDERS

BELOW_HALF = 0.5 - 2.0**-25


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        ("nearest", [0, 0, 0, 1, 2, 2, 2, 3, 8388609]),
        ("away", [0, 0, 1, 1, 2, 2, 3, 3, 8388609]),
        ("truncate", [0, 0, 0, 0, 1, 2, 2, 2, 8388609]),
    ],
)
def test_each_rounding_has_its_own_ties(rounding: str, expected: list[float]) -> None:
    t = torch.tensor([0.0, BELOW_HALF, 0.5, 0.75, 1.5, 2.0, 2.5, 2.75, 8388609.0])
    assert STEP_ROUNDERS[Rounding(rounding)](t, None).tolist() == expected


def test_stochastic_goes_up_where_noise_is_below_the_fraction() -> None:
    t = torch.tensor([1.25, 1.25, 1.25, 3.0, 0.0])
    noise = torch.tensor([0.0, 0.2499, 0.25, 0.0, 0.0])
    stochastic = STEP_ROUNDERS[Rounding.STOCHASTIC]
    assert stochastic(t, noise).tolist() == [2.0, 2.0, 1.0, 3.0, 0.0]


def test_stochastic_without_noise_says_what_it_needs() -> None:
    with pytest.raises(TypeError, match=r"noise in \[0, 1\)"):
        STEP_ROUNDERS[Rounding.STOCHASTIC](torch.ones(2), None)
