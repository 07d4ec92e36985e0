"""GPTQ: against the method written out column by column in NumPy, and on what has no inverse."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench_suite import GPTQ, ConversionError, RoundingProblem

Make = Callable[..., Any]


def brain_surgeon(
    problem: RoundingProblem, damping: float, order: bool, correction: float = 0.0
) -> Tensor:
    """Optimal brain surgery as Frantar et al. derive it: the inverse Hessian shrinks column by column.

    No factor, no blocks: after column j, ``H⁻¹ −= H⁻¹[:, j] H⁻¹[j, :] / H⁻¹[j, j]``.
    """
    groups, out, width = problem.weight.shape
    codes = np.zeros((groups, out, width))
    for g in range(groups):
        hessian = problem.moments[g].numpy()
        damped = hessian + damping * np.diag(hessian).mean() * np.eye(width)
        weight = problem.weight[g].double().numpy().copy()
        if problem.shift is not None:
            weight -= correction * np.linalg.solve(damped, problem.shift[g].numpy() @ weight.T).T
        columns = np.argsort(-np.diag(hessian), kind="stable") if order else range(width)
        inverse = np.linalg.inv(damped)
        for j in columns:
            scale = problem.scale[g, :, j].double().numpy()
            zero = 0.0 if problem.zero_point is None else problem.zero_point[g, :, j].numpy()
            code = np.clip(np.round(weight[:, j] / scale) + zero, problem.low, problem.high)
            codes[g, :, j] = code
            error = (weight[:, j] - (code - zero) * scale) / inverse[j, j]
            weight -= np.outer(error, inverse[j])
            inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return torch.from_numpy(codes).float()


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(("apart", "correction"), [(0.0, 0.5), (0.2, 0.0), (0.2, 0.5), (0.2, 1.0)])
def test_it_is_optimal_brain_surgery(
    problem: Make, order: bool, affine: bool, apart: float, correction: float
) -> None:
    given, *_ = problem(3, 4, 11, affine=affine, high=7, apart=apart)
    expected = brain_surgeon(given, 0.01, order, correction)
    for block in (1, 4, 128):
        rule = GPTQ(name="gptq", order_by_activity=order, block=block, correction=correction)
        assert torch.equal(rule.round(given), expected)


def test_chunks_and_tensors_have_scales_of_their_own(problem: Make) -> None:
    generator = torch.Generator().manual_seed(3)
    chunks = torch.rand(1, 4, 3, generator=generator).repeat_interleave(4, dim=2) + 0.1
    for scale in (chunks, torch.full((1, 4, 12), 0.3)):
        given, *_ = problem(1, 4, 12, scale=scale)
        assert torch.equal(
            GPTQ(name="gptq").round(given), brain_surgeon(given, damping=0.01, order=True)
        )


def test_it_errs_less_than_nearest_and_no_less_than_the_best(problem: Make, error: Make) -> None:
    gains = []
    for seed in range(10):
        given, x_hat, x = problem(1, 1, 4, rows=30, seed=seed)
        codes = GPTQ(name="gptq").round(given)
        every = torch.tensor(list(itertools.product(range(given.low, given.high + 1), repeat=4)))
        deltas = (every * given.scale[0] - given.weight[0]).double()
        best = float(((deltas @ given.moments[0]) * deltas).sum(dim=1).min())
        assert given.loss(codes) >= best * (1 - 1e-6)
        found, nearest = (error(given, x_hat, x, c) for c in (codes, given.nearest()))
        gains.append(math.log(nearest / found))
    assert sum(gains) / len(gains) > 0.1  # a tenth of the error, in geometric mean


def test_columns_that_are_never_excited_go_to_nearest(problem: Make) -> None:
    x = torch.randn(1, 50, 6, generator=torch.Generator().manual_seed(1))
    x[:, :, 2] = 0.0
    given, *_ = problem(1, 5, 6, x=x)
    assert torch.equal(GPTQ(name="gptq").round(given)[:, :, 2], given.nearest()[:, :, 2])
    silent = replace(given, moments=torch.zeros_like(given.moments))
    assert torch.equal(GPTQ(name="gptq").round(silent), given.nearest())


@pytest.mark.parametrize("kind", ["constant", "few rows", "one row", "huge", "tiny"])
def test_moments_without_an_inverse_do_no_harm(problem: Make, kind: str) -> None:
    x = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(1))
    x = {
        "constant": torch.ones_like(x),
        "few rows": x[:, :3],
        "one row": x[:, :1],
        "huge": x * 1e15,
        "tiny": x * 1e-15,
    }[kind]
    given, *_ = problem(2, 4, 8, x=x)
    codes = GPTQ(name="gptq").round(given)
    assert torch.equal(codes, codes.round().clamp(given.low, given.high))
    assert given.loss(codes) <= given.loss(given.nearest())


def test_progress_ends_at_the_last_column(problem: Make) -> None:
    told: list[tuple[int, int]] = []
    given, *_ = problem(1, 2, 10, progress=lambda *done: told.append(done))
    GPTQ(name="gptq", block=4).round(given)
    assert told == [(4, 10), (8, 10), (10, 10)]


@pytest.mark.parametrize(
    ("parameter", "value", "words"),
    [
        ("block", 0, "an integer above 0"),
        ("block", 1.5, "an integer above 0"),
        ("damping", -0.01, "a finite number above 0"),
        ("damping", 0.0, "a finite number above 0"),
        ("damping", math.nan, "a finite number above 0"),
        ("correction", -0.5, "a share, 0 … 1"),
        ("correction", 2.0, "a share, 0 … 1"),
    ],
)
def test_parameters_out_of_range_are_refused(parameter: str, value: Any, words: str) -> None:
    with pytest.raises(ConversionError, match=f"{parameter} of GPTQ is {words}; rule 'mine' has "):
        GPTQ(name="mine", **{parameter: value})


@pytest.mark.parametrize("correction", [0.0, 1.0])
@pytest.mark.parametrize("power", [400, -400, 900])
def test_the_units_of_moments_do_not_count(problem: Make, power: int, correction: float) -> None:
    given, *_ = problem(2, 4, 8, high=7, apart=0.2)
    unit = 2.0**power
    scaled = replace(given, moments=given.moments * unit, shift=given.shift * unit)
    rule = GPTQ(name="gptq", correction=correction)
    assert torch.equal(rule.round(scaled), rule.round(given))
    assert not torch.equal(rule.round(scaled), given.nearest())


def test_moments_that_are_none_are_refused(problem: Make) -> None:
    given, *_ = problem(1, 2, 4)
    backwards = given.moments - 1e6 * torch.eye(4)
    with pytest.raises(ConversionError, match="no Cholesky factor at a damping of"):
        GPTQ(name="gptq").round(replace(given, moments=backwards))
