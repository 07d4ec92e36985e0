"""Sums of partial sums: against float64, over groups, in one order."""

from __future__ import annotations

import pytest
import torch

from qbench_norms_cuda.column_sum import column_sum, partial_sums
from qbench_suite import ulp_errors


def filled(
    outputs: int, groups: int, parts: int, columns: int, device: torch.device
) -> torch.Tensor:
    """Partial sums drawn at random; what pads a row to fours is NaN, so that its use would show."""
    partial = partial_sums(outputs, groups, parts, columns, device).fill_(torch.nan)
    generator = torch.Generator().manual_seed(parts * 1000 + columns)
    drawn = torch.randn((outputs, groups, parts, columns), generator=generator)
    partial[..., :columns] = drawn.to(device)
    return partial


@pytest.mark.parametrize("columns", [1, 7, 32, 129])
@pytest.mark.parametrize("parts", [1, 3, 40, 264])
def test_sums_each_group_and_output(device: torch.device, parts: int, columns: int) -> None:
    partial = filled(2, 3, parts, columns, device)
    outputs = [torch.empty((3, columns), device=device) for _ in range(2)]
    column_sum(partial, outputs)
    exact = partial[..., :columns].double().sum(2)
    for output, expected in zip(outputs, exact, strict=True):
        errors = ulp_errors(output, expected)
        assert errors.max_ulp <= 4
        assert not errors.nonfinite


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounds_once(device: torch.device, dtype: torch.dtype) -> None:
    partial = filled(1, 1, 100, 77, device)
    output = torch.empty((1, 77), dtype=dtype, device=device)
    column_sum(partial, [output])
    assert ulp_errors(output, partial[0, ..., :77].double().sum(1)).max_ulp <= 0.501


def test_an_output_that_is_not_asked_for_is_left_out(device: torch.device) -> None:
    partial = filled(2, 1, 5, 40, device)
    output = torch.empty((1, 40), device=device)
    column_sum(partial, [None, output])
    torch.testing.assert_close(output, partial[1, :, :, :40].sum(1))
    column_sum(partial, [None, None])


def test_nan_and_inf_stay_in_their_columns(device: torch.device) -> None:
    partial = filled(1, 1, 33, 16, device)
    partial[0, 0, 20, 3] = torch.nan
    partial[0, 0, 32, 9] = torch.inf
    output = torch.empty((1, 16), device=device)
    column_sum(partial, [output])
    assert output.isnan().nonzero()[:, 1].tolist() == [3]
    assert output.isposinf().nonzero()[:, 1].tolist() == [9]


def test_runs_agree_to_the_last_bit(device: torch.device) -> None:
    partial = filled(1, 2, 264, 100, device)
    first, second = (torch.empty((2, 100), device=device) for _ in range(2))
    column_sum(partial, [first])
    column_sum(partial, [second])
    assert torch.equal(first, second)


def test_no_parts_sum_to_zero(device: torch.device) -> None:
    output = torch.full((1, 5), torch.nan, device=device)
    column_sum(partial_sums(1, 1, 0, 5, device), [output])
    assert output.tolist() == [[0.0] * 5]
