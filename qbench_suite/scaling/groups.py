"""Groups: a tensor as rows, one a group of elements that share a scale."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qbench_suite.scaling.granularity import Shape
from qbench_suite.scaling.pieces import scale_shape


def fold_groups(x: Tensor, group_shape: Shape) -> Tensor:
    """``x`` as (groups, elements) float32, groups in the order of the flattened scale tensor.

    ``group_shape``: elements of a group along each axis. Where a last group is shorter, NaN fills its
    row, which range rules pass over. A view of ``x`` where its memory allows one. An empty tensor has
    no groups: (0, elements).
    """
    shape = tuple(x.shape)
    counts = scale_shape(shape, group_shape)
    rows, elements = math.prod(counts), math.prod(group_shape)
    if not x.numel():
        return torch.empty((0, elements), dtype=torch.float32, device=x.device)
    x = _pad(x.to(torch.float32), counts, group_shape)
    x = x.reshape([n for pair in zip(counts, group_shape, strict=True) for n in pair])
    order = [*range(0, 2 * len(counts), 2), *range(1, 2 * len(counts), 2)]
    return x.permute(order).reshape(rows, elements)


def _pad(x: Tensor, counts: Shape, group_shape: Shape) -> Tensor:
    """``x`` with NaN after the end of every axis that groups do not divide."""
    padding: list[int] = []
    for length, count, group in reversed(list(zip(x.shape, counts, group_shape, strict=True))):
        padding += [0, count * group - length]
    return torch.nn.functional.pad(x, padding, value=math.nan) if any(padding) else x
