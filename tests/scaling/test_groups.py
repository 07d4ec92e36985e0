"""Folding into groups: the rows are the groups of a NumPy loop, NaN behind what is short."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qbench_suite.scaling import fold_groups
from qbench_suite.scaling.pieces import scale_shape


@st.composite
def grouped(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """A shape, a group shape within it, an order of axes in memory."""
    shape = tuple(draw(st.lists(st.integers(1, 6), max_size=4)))
    group = tuple(draw(st.integers(1, n)) for n in shape)
    return shape, group, tuple(draw(st.permutations(range(len(shape)))))


@settings(max_examples=200)
@given(grouped())
def test_rows_are_the_groups_in_the_order_of_their_scales(
    drawn: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
) -> None:
    shape, group, order = drawn
    memory = torch.arange(float(math.prod(shape))).view([shape[i] for i in order])
    x = memory.permute([order.index(i) for i in range(len(shape))])
    rows = fold_groups(x, group)
    counts = scale_shape(shape, group)
    assert rows.shape == (math.prod(counts), math.prod(group))
    for row, index in zip(rows.numpy(), np.ndindex(*counts), strict=True):
        block = x.numpy()[
            tuple(slice(i * g, (i + 1) * g) for i, g in zip(index, group, strict=True))
        ]
        present = row[~np.isnan(row)]
        np.testing.assert_array_equal(np.sort(present), np.sort(block.reshape(-1)))


def test_short_last_group_is_filled_with_nan() -> None:
    rows = fold_groups(torch.tensor([[1.0, 2.0, 3.0]]), (1, 2))
    assert rows[0].tolist() == [1.0, 2.0]
    assert rows[1, 0] == 3.0
    assert rows[1, 1].isnan()


def test_a_scalar_is_one_group_of_one() -> None:
    assert fold_groups(torch.tensor(5.0), ()).tolist() == [[5.0]]


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0)])
def test_an_empty_tensor_has_no_groups(shape: tuple[int, ...]) -> None:
    assert fold_groups(torch.empty(shape), shape).shape[0] == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_rows_are_float32(dtype: torch.dtype) -> None:
    assert fold_groups(torch.ones(2, 2, dtype=dtype), (2, 2)).dtype is torch.float32


def test_a_whole_contiguous_tensor_is_not_copied() -> None:
    x = torch.randn(4, 5)
    assert fold_groups(x, (4, 5)).data_ptr() == x.data_ptr()
