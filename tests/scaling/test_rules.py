"""Scale rules: their formulas in exact arithmetic, at the edges of float32 too."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench_suite import AbsMax, PowerOfTwo, ScaleRule, TwoLevel

ZERO = torch.tensor(0.0)
FLT_MAX = 3.4028234663852886e38
TOPS = (448.0, 57344.0, 240.0, 7.5, 28.0, 6.0, 16.0, 127.0, 7.0, 1.0)
#: Every power of two, one ulp below and above it, subnormals and the largest numbers.
POWERS = torch.exp2(torch.arange(-126, 128).to(torch.float32))
AMAX = torch.cat(
    [
        POWERS,
        POWERS.nextafter(ZERO),
        POWERS.nextafter(torch.tensor(torch.inf)),
        torch.tensor([1e-45, 1e-42, 1e-39, 3.3e38, FLT_MAX]),
        torch.rand(500, generator=torch.Generator().manual_seed(0)) * 100,
    ]
)


def scaled(rule: ScaleRule, amax: Tensor, top: float, tensor_amax: Tensor = ZERO) -> Tensor:
    """The rule's scales."""
    return rule.scale(amax, torch.tensor(top), tensor_amax)


@pytest.mark.parametrize("top", [*TOPS, 0.25])
def test_absmax_is_one_float32_division(top: float) -> None:
    with np.errstate(over="ignore"):
        expected = np.minimum(AMAX.numpy(), np.float32(3.4e38)) / np.float32(top)
    expected = np.clip(expected, np.float32(2.0**-126), np.float32(3.4e38))
    assert np.array_equal(scaled(AbsMax(), AMAX, top).numpy(), expected)


@pytest.mark.parametrize("top", TOPS)
def test_mx_rounds_the_exponent_down_without_a_logarithm(top: float) -> None:
    emax = math.frexp(top)[1] - 1
    expected = [
        math.ldexp(1.0, min(max(math.frexp(a)[1] - 1 - emax, -127), 127)) for a in AMAX.tolist()
    ]
    assert scaled(PowerOfTwo(), AMAX, top).tolist() == expected


@pytest.mark.parametrize("top", TOPS)
def test_mx_rounding_up_takes_the_smallest_power_at_which_nothing_saturates(top: float) -> None:
    largest = 127 - (math.frexp(top)[1] - 1)
    for amax, scale in zip(
        AMAX.tolist(), scaled(PowerOfTwo(ceil=True), AMAX, top).tolist(), strict=True
    ):
        exponent = math.frexp(scale)[1] - 1
        assert scale == 2.0**exponent
        assert -126 <= exponent <= largest
        fits = Fraction(amax) / Fraction(scale) <= Fraction(top)
        assert fits or exponent == largest
        assert exponent == -126 or Fraction(amax) / Fraction(scale) * 2 > Fraction(top)


@pytest.mark.parametrize("top", [*TOPS, 0.25])
@pytest.mark.parametrize("rule", [AbsMax(), PowerOfTwo(), PowerOfTwo(ceil=True)], ids=repr)
def test_the_largest_value_times_its_scale_is_finite(rule: ScaleRule, top: float) -> None:
    scale = scaled(rule, AMAX, top)
    assert scale.isfinite().all()
    assert (scale > 0).all()
    assert (scale * top).isfinite().all()


def test_some_groups_saturate_where_the_exponent_is_rounded_down_and_none_where_up() -> None:
    groups = torch.randn(650, 32, generator=torch.Generator().manual_seed(0))
    amax = groups.abs().amax(dim=1)
    down = amax / scaled(PowerOfTwo(), amax, 448.0) > 448
    up = amax / scaled(PowerOfTwo(ceil=True), amax, 448.0) > 448
    assert 50 < int(down.sum()) < 600
    assert not up.any()


def e4m3_numbers() -> list[float]:
    """Positive E4M3 numbers, ascending; the index plus one is the code."""
    subnormal = [m * 2.0**-9 for m in range(1, 8)]
    normal = [(8 + m) * 2.0 ** (e - 3) for e in range(-6, 9) for m in range(8)]
    return subnormal + normal[:-1]


def test_the_inner_scale_of_two_levels_is_the_nearest_e4m3_number() -> None:
    numbers = e4m3_numbers()
    middles = [(a + b) / 2 for a, b in itertools.pairwise(numbers)]
    near = torch.tensor([*numbers, *middles])
    factors = torch.cat([near, near.nextafter(ZERO), near.nextafter(torch.tensor(999.0))])
    # With a tensor scale of 1 and a largest value of 1 the factor is the absolute maximum itself.
    got = scaled(TwoLevel(), factors, 1.0, torch.tensor(448.0))
    for factor, scale in zip(factors.tolist(), got.tolist(), strict=True):

        def distance(i: int, factor: float = factor) -> tuple[Fraction, bool]:
            return abs(Fraction(numbers[i]) - Fraction(factor)), (i + 1) % 2 == 1

        assert scale == numbers[min(range(len(numbers)), key=distance)]


def test_two_levels_follow_their_formula_in_float32() -> None:
    generator = torch.Generator().manual_seed(2)
    whole = torch.tensor(4.9)
    tensor_scale = np.float32(whole) / np.float32(448 * 6)
    numbers = np.array(e4m3_numbers(), np.float32)
    # Near ties the order of the divisions tells.
    ties = torch.from_numpy((numbers[1:] + numbers[:-1]) / 2 * np.float32(6) * tensor_scale)
    beside = [ties.nextafter(ZERO), ties, ties.nextafter(torch.tensor(9.0))]
    amax = torch.cat([torch.rand(300, generator=generator) * whole, *beside])
    expected = []
    for a in amax.numpy():
        factor = np.float32(a / np.float32(6)) / tensor_scale
        away = np.abs(numbers.astype(np.float64) - float(factor))
        # Of two equally near numbers the one with the even code, which is the index plus one.
        nearest = numbers[min(np.flatnonzero(away == away.min()), key=lambda i: (i + 1) % 2)]
        expected.append(nearest * tensor_scale)
    assert scaled(TwoLevel(), amax, 6.0, whole).tolist() == [float(e) for e in expected]


@pytest.mark.parametrize("whole", [1e-45, 2.0**-126, 1.0, 3.3e38, FLT_MAX])
def test_two_levels_stay_finite_and_positive(whole: float) -> None:
    amax = torch.tensor([whole, whole / 3, whole / 1e6, 1e-45])
    scale = scaled(TwoLevel(), amax[amax > 0], 6.0, torch.tensor(whole))
    assert scale.isfinite().all()
    assert (scale > 0).all()
    assert (scale * 6).isfinite().all()


def test_rules_say_how_many_bits_a_scale_takes() -> None:
    bits = [AbsMax().scale_bits, PowerOfTwo().scale_bits, TwoLevel().scale_bits]
    assert bits == [32, 8, 8]
    needs = [
        AbsMax().needs_tensor_amax,
        PowerOfTwo().needs_tensor_amax,
        TwoLevel().needs_tensor_amax,
    ]
    assert needs == [False, False, True]
