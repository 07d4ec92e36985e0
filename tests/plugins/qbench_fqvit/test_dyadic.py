"""Real factors as integers: how near they come, and where they do not fit."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from qbench_fqvit.dyadic import as_int32, common_dyadic, dyadic
from qbench_suite import ConversionError


def test_each_ratio_has_31_bits() -> None:
    exponents = torch.linspace(-31.0, 29.0, 500, dtype=torch.float64)
    ratios = torch.exp2(exponents)
    multiplier, shift = dyadic(ratios, "x")
    assert multiplier.dtype == torch.int32
    assert shift.dtype == torch.int8
    assert int(multiplier.min()) >= 2**30
    assert 1 <= int(shift.min()) <= int(shift.max()) <= 62
    for ratio, m, s in zip(ratios.tolist(), multiplier.tolist(), shift.tolist(), strict=True):
        assert abs(Fraction(m, 2**s) / Fraction(ratio) - 1) <= Fraction(1, 2**31)


def test_a_ratio_that_rounds_up_to_a_power_of_two_still_fits() -> None:
    multiplier, shift = dyadic(torch.tensor([1 - 2.0**-40], dtype=torch.float64), "x")
    assert (int(multiplier), int(shift)) == (2**30, 30)


def test_zero_and_tiny_ratios_end_at_the_largest_shift() -> None:
    multiplier, shift = dyadic(torch.tensor([0.0, 2.0**-50], dtype=torch.float64), "x")
    assert multiplier.tolist() == [0, 2**12]
    assert shift.tolist() == [62, 62]


@pytest.mark.parametrize("bad", [2.0**30, float("inf"), float("nan"), -1.0])
def test_a_ratio_beyond_the_shifts_is_refused(bad: float) -> None:
    with pytest.raises(ConversionError, match=r"'act' of block 'blocks\.1'"):
        dyadic(torch.tensor([1.0, bad]), "'act' of block 'blocks.1'")


def test_ratios_share_the_shift_of_the_largest() -> None:
    (left, right), shift = common_dyadic(
        torch.tensor([1.0, 0.25]), torch.tensor([0.5, 4.0]), what="x"
    )
    assert shift.tolist() == [30, 28]
    assert left.tolist() == [2**30, 2**26]
    assert right.tolist() == [2**29, 2**30]


@pytest.mark.parametrize("bad", [2.0**31, float("nan")])
def test_an_integer_beyond_32_bits_is_refused(bad: float) -> None:
    with pytest.raises(ConversionError, match="fit 32 bits"):
        as_int32(torch.tensor([bad]), "the bias")
