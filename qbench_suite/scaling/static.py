"""Static scales: those that cover a given range, by the kernel's own arithmetic."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qbench_suite.errors import ModeError
from qbench_suite.formats import Format
from qbench_suite.scaling.granularity import Shape
from qbench_suite.scaling.kernel import KernelKey, Operands, group_scales
from qbench_suite.scaling.mode import Mode
from qbench_suite.scaling.quantized import Scales
from qbench_suite.scaling.ranges import Range


def scales_of_range(format: Format, mode: Mode, range: Range, shape: Shape) -> Scales:
    """Scales, and zero points of an affine format, of groups whose values span ``range``.

    ``range``: one element a group; ``shape``: that of the scale tensor. With the least and largest
    finite value of each group, these are the bits that the kernel gives for its values. NaN and ±Inf
    count as 0; a range of 0 … 0 has scale 1. A rule with a scale a tensor takes the largest
    magnitude of all groups for the tensor's. Raises ``ModeError`` for another number of groups.
    """
    _check(range, shape)
    low, high = (part.reshape(-1).to(torch.float32) for part in range)
    ends = torch.stack([low, high], dim=1)
    zero_point = torch.empty_like(ends[:, :1]) if format.affine else None
    operands = Operands(
        x=ends,
        out=ends,
        scale=torch.empty_like(ends[:, :1]),
        zero_point=zero_point,
        noise=None,
        top=torch.tensor(1.0 if format.unit_scale else format.max, device=ends.device),
        tensor_amax=_largest(ends),
        constants=format.round_kernel(ends.device).constants,
    )
    key = KernelKey(None, mode.rule, (1,), format.affine, format.unit_scale, dequantize=False)
    group_scales(key, ends, operands)
    return Scales(
        operands.scale.view(shape), None if zero_point is None else zero_point.view(shape)
    )


def _largest(ends: Tensor) -> Tensor:
    """The largest finite magnitude: 0-d, 0 where there is none."""
    magnitude = torch.where(ends.isfinite(), ends.abs(), 0.0)
    return magnitude.amax() if magnitude.numel() else magnitude.new_zeros(())


def _check(range: Range, shape: Shape) -> None:
    groups = math.prod(shape)
    if not range.low.numel() == range.high.numel() == groups:
        raise ModeError(
            f"A range has one element a group; got {range.low.numel()} and {range.high.numel()} for "
            f"{groups} groups, scales of shape {shape}. Let the observer return one of each a group."
        )
