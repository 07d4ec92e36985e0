"""What a rounding problem is: its error by the moments alone, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from qbench_suite import AdaRound, ConversionError, Nearest
from qbench_suite.calibration.rounding import dequantized

Make = Callable[..., Any]


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("apart", [0.0, 0.5])
def test_differences_of_the_loss_are_those_of_the_output_error(
    problem: Make, error: Make, affine: bool, apart: float
) -> None:
    given, x_hat, x = problem(2, affine=affine, apart=apart)
    nearest = given.nearest()
    other = (nearest + 1).clamp(given.low, given.high)
    by_outputs = error(given, x_hat, x, other) - error(given, x_hat, x, nearest)
    assert given.loss(other) - given.loss(nearest) == pytest.approx(by_outputs, rel=1e-5)


def test_nearest_is_a_code_and_the_nearest_one(problem: Make) -> None:
    for affine in (False, True):
        given, *_ = problem(affine=affine, high=7)
        codes = Nearest(name="nearest").round(given)
        every = torch.arange(given.low, given.high + 1.0)
        zero = 0.0 if given.zero_point is None else given.zero_point[..., None]
        gaps = ((every - zero) * given.scale[..., None] - given.weight[..., None]).abs()
        assert torch.equal(codes, every[gaps.argmin(dim=-1)])


def test_values_are_exact_products_and_zero_has_no_sign() -> None:
    codes, scale = torch.tensor([-0.0, 3.0]), torch.tensor([0.1, 0.1])
    found = dequantized(codes, scale, None)
    assert torch.equal(found, torch.tensor([0.0, 3.0]) * scale)
    assert not found.signbit()[0]
    assert torch.equal(dequantized(codes, scale, torch.tensor([2.0, 2.0])), (codes - 2) * scale)


@pytest.mark.parametrize(
    "name", ["weight", "scale", "zero_point", "moments", "shift", "inputs", "float_inputs", "bias"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_by_name(problem: Make, name: str, value: float) -> None:
    given, x_hat, x = problem(apart=0.1, affine=True)
    given = replace(given, inputs=x_hat, float_inputs=x, bias=torch.ones(1, 3, 1)[..., 0])
    spoiled = getattr(given, name).clone()
    spoiled[(0,) * spoiled.dim()] = value
    with pytest.raises(ConversionError, match=rf"1 values of {name} are NaN or ±Inf"):
        replace(given, **{name: spoiled})


def test_shapes_that_do_not_go_together_are_refused(problem: Make) -> None:
    given, *_ = problem()
    with pytest.raises(ConversionError, match=r"moments \(1, 4, 4\)"):
        replace(given, moments=given.moments[:, 1:, 1:])
    with pytest.raises(ConversionError, match=r"scale \(1, 3, 1\), not \(1, 3, 5\)"):
        replace(given, scale=given.scale[:, :, :1])
    with pytest.raises(ConversionError, match=r"weight \(g, out, in\).* got shape \(3, 5\)"):
        replace(given, weight=given.weight[0])
    with pytest.raises(ConversionError, match=r"codes low ≤ high; got .* 4 … 3"):
        replace(given, low=4)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("zero_point", (1, 3, 1)),
        ("shift", (1, 5)),
        ("inputs", (1, 0, 5)),
        ("inputs", (7, 5)),
        ("inputs", (1, 7, 4)),
        ("float_inputs", (1, 6, 5)),
        ("bias", (3,)),
    ],
)
def test_what_else_has_another_shape_is_refused(
    problem: Make, name: str, shape: tuple[int, ...]
) -> None:
    given, *_ = problem(inputs=torch.ones(1, 7, 5))
    with pytest.raises(ConversionError, match=re.escape(f"{name} {shape}, not (1, ")):
        replace(given, **{name: torch.ones(shape)})


@pytest.mark.parametrize("value", [0.0, -0.5])
def test_scales_that_are_not_positive_are_refused(problem: Make, value: float) -> None:
    given, *_ = problem()
    scale = given.scale.clone()
    scale[0, 1] = value
    with pytest.raises(ConversionError, match=rf"above 0; 5 are not, the least is {value:g}\."):
        replace(given, scale=scale)


def test_samples_are_asked_for_where_all_rows_cost_more() -> None:
    rule = AdaRound(name="adaround", batch=8, rows=100)
    assert [rule.sample_rows(width) for width in (1, 32, 33)] == [0, 0, 100]
    assert Nearest(name="nearest").sample_rows(10**6) == 0
