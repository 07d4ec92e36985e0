"""The fused fake-quantize kernel: scale, divide, round, clamp, multiply, written once.

``steps`` below is the whole arithmetic. It runs on the folded views of ``pieces``, either as it is
(eager) or compiled by ``compiling``; both give the same bits, as every operation in it is correctly
rounded and none is reordered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from qbench_suite.scaling.rules import ScaleRule

_FLOAT32_MAX = 3.4028234663852886e38
_FLOAT16_MAX = 65504.0
_MIN_SCALE = 2.0**-126
#: Half the float32 range, so that max − min stays finite.
_MAX_AFFINE = 1.7e38


class Operands(NamedTuple):
    """Tensors of one call, all views of the caller's buffers; ``None`` where the kernel needs none."""

    #: The values to quantize, folded.
    x: Tensor
    #: Where the result goes, same shape.
    out: Tensor
    #: Scale of each group, reduced axes of length 1; written if dynamic, read if static.
    scale: Tensor
    #: Zero point of each group, likewise; affine formats only.
    zero_point: Tensor | None
    #: Uniform in [0, 1), shape of ``x``; stochastic rounding only.
    noise: Tensor | None
    #: The format's largest magnitude, 0-d.
    top: Tensor
    #: Absolute maximum of the whole tensor, 0-d; 0 where the rule does not need it.
    tensor_amax: Tensor
    #: Constants of the format's rounding.
    constants: tuple[Tensor, ...]


@dataclass(frozen=True)
class KernelKey:
    """What makes two kernels differ; shapes and the constants of a format do not."""

    #: Rounds float32 element by element: ``round(v, noise, *constants)``. None to round nothing: the
    #: kernel then only writes the absolute maximum of each group to ``scale``.
    round: Callable[..., Tensor] | None
    #: Gives the scales; None for static scales, which are read.
    rule: ScaleRule | None
    #: Axes over which a group extends.
    reduced: tuple[int, ...]
    #: Whether there is a zero point.
    affine: bool
    #: Whether the scale is 1, whatever the values.
    unit_scale: bool
    #: Whether ``out`` receives q · scale; else q itself.
    dequantize: bool


def steps(key: KernelKey) -> Callable[[Operands], None]:
    """The kernel for ``key``, uncompiled."""
    rounding = key.round
    if rounding is None:
        return _amax_steps(key)

    def fake_quantize(operands: Operands) -> None:
        x = operands.x.to(torch.float32)
        scale, zero_point = group_scales(key, x, operands)
        constants = operands.constants
        if zero_point is not None:
            constants = tuple(bound - zero_point for bound in constants)
        q = rounding(x / scale, operands.noise, *constants)
        operands.out.copy_(to_dtype(q * scale if key.dequantize else q, operands.out.dtype))

    return fake_quantize


def _amax_steps(key: KernelKey) -> Callable[[Operands], None]:
    def absolute_maximum(operands: Operands) -> None:
        operands.scale.copy_(_amax(key, operands.x.to(torch.float32)))

    return absolute_maximum


def _amax(key: KernelKey, x: Tensor) -> Tensor:
    """Absolute maximum of the finite values of each group."""
    return _reduce(torch.amax, _finite(x).abs(), key.reduced)


def to_dtype(y: Tensor, dtype: torch.dtype) -> Tensor:
    """Float32 ``y`` in ``dtype``; what is finite stays finite, as float16 ends at 65504."""
    if dtype != torch.float16:
        return y.to(dtype)
    bounded = torch.clamp(y, -_FLOAT16_MAX, _FLOAT16_MAX)
    return torch.where(y.abs() <= _FLOAT32_MAX, bounded, y).to(dtype)


def group_scales(key: KernelKey, x: Tensor, operands: Operands) -> tuple[Tensor, Tensor | None]:
    """Scale and zero point of each group of float32 ``x``; written to the operands unless static."""
    if key.rule is None:
        return operands.scale, operands.zero_point
    zero_point = None
    if key.unit_scale:
        scale = torch.ones_like(operands.scale)
    elif key.affine:
        scale, zero_point = _affine_scale(key, x, operands)
        assert operands.zero_point is not None
        operands.zero_point.copy_(zero_point)
    else:
        amax = _amax(key, x)
        scale = key.rule.scale(amax, operands.top, operands.tensor_amax)
        scale = torch.where(amax > 0, scale, 1.0)
    operands.scale.copy_(scale)
    return scale, zero_point


def _affine_scale(key: KernelKey, x: Tensor, operands: Operands) -> tuple[Tensor, Tensor]:
    """``scale = (max − min) / (high − low)``, ``zero_point = low − round(min / scale)``; 0 in range."""
    low, high = operands.constants
    finite = torch.clamp(_finite(x), -_MAX_AFFINE, _MAX_AFFINE)
    least = torch.clamp(_reduce(torch.amin, finite, key.reduced), max=0.0)
    most = torch.clamp(_reduce(torch.amax, finite, key.reduced), min=0.0)
    scale = torch.clamp((most - least) / (high - low), min=_MIN_SCALE)
    scale = torch.where(most > least, scale, 1.0)
    zero_point = torch.minimum(torch.maximum(low - torch.round(least / scale), low), high)
    return scale, zero_point


def _finite(x: Tensor) -> Tensor:
    """``x`` with NaN and ±Inf as 0, so that they leave the scale alone."""
    return torch.where(x.abs() <= _FLOAT32_MAX, x, 0.0)


def _reduce(function: Callable[..., Tensor], x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return function(x, dim=axes, keepdim=True) if axes else x
