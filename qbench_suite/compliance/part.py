"""Part: some of a quantized tensor, with the scales that serve them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from qbench_suite.scaling import FakeQuantized


def first_rows(result: FakeQuantized, rows: int) -> FakeQuantized:
    """The first ``rows`` along axis 0, a view; all of it where groups cut that axis elsewhere."""
    length, group = result.values.shape[0], result.group_shape[0]
    if rows >= length or group not in (1, length):
        return result
    narrow = rows if group == 1 else 1
    zero_point = result.zero_point
    return replace(
        result,
        values=result.values[:rows],
        scale=result.scale[:narrow],
        zero_point=None if zero_point is None else zero_point[:narrow],
        group_shape=(min(group, rows), *result.group_shape[1:]),
    )


def sample(numel: int, size: int, generator: torch.Generator) -> Tensor:
    """``size`` distinct places below ``numel``, ascending: one at random in each equal stretch."""
    bounds = torch.arange(size + 1, dtype=torch.int64) * numel // size
    jitter = torch.rand(size, generator=generator, dtype=torch.float64)
    return bounds[:-1] + (jitter * bounds.diff()).to(torch.int64)


def elements(result: FakeQuantized, places: Tensor) -> FakeQuantized:
    """The elements at those places of the flattened tensor, each a group of its own: (places,)."""
    shape = result.values.shape
    places = places.to(result.values.device)
    index = torch.unravel_index(places, shape)
    groups = tuple(i // size for i, size in zip(index, result.group_shape, strict=True))
    return replace(
        result,
        values=result.values[index],
        scale=result.scale[groups],
        zero_point=None if result.zero_point is None else result.zero_point[groups],
        group_shape=(1,),
    )


def source_elements(source: Tensor, places: Tensor) -> Tensor:
    """The same elements of the tensor before quantization."""
    return source[torch.unravel_index(places.to(source.device), source.shape)]
