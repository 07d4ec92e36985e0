"""Errors in ulps, on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from qbench_suite import ulp_errors

NAN, INF = math.nan, math.inf
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def errors(output: list[float], reference: list[float], dtype: torch.dtype) -> tuple[float, ...]:
    found = ulp_errors(
        torch.tensor(output, dtype=torch.float64).to(dtype),
        torch.tensor(reference, dtype=torch.float64),
    )
    return found.max_ulp, found.p999_ulp, found.nonfinite


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_neighbour_is_one_ulp_away(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    assert errors([1.0], [1.0], dtype) == (0, 0, 0)
    assert errors([1 + eps], [1.0], dtype) == (1, 1, 0)
    # Below a power of two neighbours are half as far apart; the ulp is that of the reference.
    assert errors([2 - eps], [2.0], dtype) == (0.5, 0.5, 0)
    assert errors([2.0], [2 - eps], dtype) == (1, 1, 0)
    assert errors([-4.0], [-4 * (1 + 3 * eps)], dtype) == (3, 3, 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_reference_between_neighbours_is_half_an_ulp_away(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    assert errors([1.0], [1 + eps / 2], dtype)[0] == 0.5
    assert errors([1.0], [1 + eps / 4], dtype)[0] == 0.25


def test_below_the_rms_an_error_counts_as_one_at_the_rms() -> None:
    """rms of (1, 1, 1, 0) is √¾, in the binade of ½: its ulp is eps / 2."""
    eps = torch.finfo(torch.float32).eps
    assert errors([1, 1, 1, eps], [1, 1, 1, 0], torch.float32)[0] == 2
    # A small element beside large ones may be wrong by as much as they.
    assert errors([4, 4, 4e-3], [4, 4, 5e-3], torch.float16)[0] == pytest.approx(
        (5e-3 - float(torch.tensor(4e-3, dtype=torch.float16))) / (2 * 2**-10), rel=1e-6
    )


def test_one_bad_element_of_many_leaves_the_share_alone() -> None:
    """999 of 1,000 elements stay within ``p999_ulp``; of fewer, all."""
    eps = torch.finfo(torch.float32).eps
    for count, expected in ((999, 8), (1000, 0), (2000, 0)):
        reference = [1.0] * count
        assert errors([1 + 8 * eps, *reference[1:]], reference, torch.float32)[:2] == (8, expected)
    two = [1 + 8 * eps] * 2
    assert errors([*two, *[1.0] * 1998], [1.0] * 2000, torch.float32)[1] == 0
    assert errors([*two, *[1.0] * 1997], [1.0] * 1999, torch.float32)[1] == 8


def test_what_is_not_finite_is_itself_or_counted() -> None:
    same = [NAN, INF, -INF, 1.0]
    assert errors(same, same, torch.float32) == (0, 0, 0)
    for output, reference in different_pairs(same):
        assert errors([output, 1.0], [reference, 1.0], torch.float32) == (0, 0, 1)
    # The others are judged all the same.
    eps = torch.finfo(torch.float32).eps
    assert errors([NAN, 1 + eps], [1.0, 1.0], torch.float32) == (1, 1, 1)


def different_pairs(values: list[float]) -> list[tuple[float, float]]:
    """Ordered pairs of different values."""
    return [(a, b) for i, a in enumerate(values) for j, b in enumerate(values) if i != j]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_reference_beyond_the_range_is_infinite(dtype: torch.dtype) -> None:
    """The bound is what rounds to ±Inf: half an ulp above the largest value."""
    info = torch.finfo(dtype)
    half = (info.max - float(torch.nextafter(*torch.tensor([info.max, 0.0], dtype=dtype)))) / 2
    for sign in (1, -1):
        assert errors([sign * INF], [sign * (info.max + half)], dtype) == (0, 0, 0)
        assert errors([sign * info.max], [sign * (info.max + half)], dtype)[2] == 1
        below = math.nextafter(info.max + half, 0)
        assert errors([sign * info.max], [sign * below], dtype)[::2] == (pytest.approx(0.5), 0)
        assert errors([sign * INF], [sign * below], dtype)[2] == 1
    assert errors([INF], [-info.max * 2], dtype)[2] == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormals_are_as_far_apart_as_the_smallest(dtype: torch.dtype) -> None:
    step = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    assert errors([3 * step], [step], dtype)[0] == 2
    assert errors([0.0], [step], dtype)[0] == 1
    assert errors([0.0, 0.0], [0.0, 0.0], dtype) == (0, 0, 0)
    assert errors([step], [0.0], dtype)[0] == 1


def test_an_empty_output_has_no_error() -> None:
    assert errors([], [], torch.float16) == (0, 0, 0)
    assert errors([NAN], [NAN], torch.float16) == (0, 0, 0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64])
def test_integers_are_the_same_or_infinitely_far(dtype: torch.dtype) -> None:
    zeros = torch.zeros(2, 1000, dtype=dtype)
    for reference in (zeros, zeros.long(), zeros.double()):
        for differing, expected in ((0, (0, 0)), (1, (math.inf, 0)), (3, (math.inf, math.inf))):
            output = zeros.clone()
            output[0, :differing] = 1
            found = ulp_errors(output, reference)
            assert (found.max_ulp, found.p999_ulp) == expected
            assert (found.nonfinite, found.differing) == (0, differing)
    assert ulp_errors(zeros[:0], zeros[:0]).max_ulp == 0


def test_integers_are_compared_beyond_what_floats_hold() -> None:
    large = torch.tensor([2**53 + 1])
    assert ulp_errors(large, large - 1).differing == 1
    # Nor does a value that only the dtype of one of them cannot hold wrap around.
    assert ulp_errors(torch.tensor([0], dtype=torch.uint8), torch.tensor([256])).differing == 1
    assert ulp_errors(torch.tensor([0]), torch.tensor([math.nan])).differing == 1
    assert ulp_errors(torch.ones(1), torch.ones(1).double()).differing is None


def test_the_output_is_judged_in_its_own_dtype() -> None:
    """The same values: an error of one in bfloat16 is 2¹⁶ in float32."""
    eps = torch.finfo(torch.bfloat16).eps
    assert errors([1 + eps], [1.0], torch.bfloat16)[0] == 1
    assert errors([1 + eps], [1.0], torch.float32)[0] == 2**16
