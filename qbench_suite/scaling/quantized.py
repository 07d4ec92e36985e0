"""QuantizedTensor: codes and scales; and how scales spread over the elements they serve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from qbench_suite.formats import Format
from qbench_suite.scaling.granularity import Shape
from qbench_suite.scaling.kernel import to_dtype
from qbench_suite.scaling.mode import Mode


def spread(scale: Tensor, shape: Shape, group_shape: Shape) -> Tensor:
    """``scale`` (one element a group) repeated over the elements of each group: shape ``shape``."""
    for axis, (length, group) in enumerate(zip(shape, group_shape, strict=True)):
        if scale.shape[axis] == 1 or group == 1:
            continue
        scale = scale.repeat_interleave(group, dim=axis).narrow(axis, 0, length)
    return scale.expand(shape)


class Scales(NamedTuple):
    """Scales fixed beforehand (static), in place of those of the values at hand (dynamic)."""

    #: float32 > 0, one element a group: ``ceil(shape / group_shape)``.
    scale: Tensor
    #: float32 integers, shape of ``scale``; affine formats only.
    zero_point: Tensor | None = None


@dataclass(frozen=True)
class FakeQuantized:
    """Float values on the grid, with the scales that put them there.

    Invariant (compliance): every finite value is ``q · scale`` for a q of the format, in float32
    arithmetic and then rounded to the dtype of ``values``.
    """

    #: Fake-quantized values: shape, dtype and memory order of the input.
    values: Tensor
    #: float32, one element a group: ``ceil(shape / group_shape)``.
    scale: Tensor
    #: float32 integers, shape of ``scale``; affine formats only.
    zero_point: Tensor | None
    #: Elements of a group along each axis.
    group_shape: Shape
    format: Format
    mode: Mode

    def spread_scale(self) -> Tensor:
        """The scale of every element: float32, shape of ``values``."""
        return spread(self.scale, tuple(self.values.shape), self.group_shape)

    def spread_zero_point(self) -> Tensor | None:
        """The zero point of every element, shape of ``values``; None for a symmetric format."""
        if self.zero_point is None:
            return None
        return spread(self.zero_point, tuple(self.values.shape), self.group_shape)

    @property
    def bits_per_value(self) -> float:
        """Effective bits an element: its code and its share of scales and zero points."""
        return bits_per_value(self.format, self.mode, self.values.numel(), self.scale.numel())


@dataclass(frozen=True)
class QuantizedTensor:
    """Codes and scales: what a tensor is stored as."""

    #: Codes of the format, shape of the tensor; uint8 up to 8 bits, else int32.
    codes: Tensor
    #: float32, one element a group.
    scale: Tensor
    #: float32 integers, shape of ``scale``; affine formats only.
    zero_point: Tensor | None
    #: Elements of a group along each axis.
    group_shape: Shape
    format: Format
    mode: Mode
    #: dtype of the tensor that was quantized.
    dtype: torch.dtype

    def dequantize(self) -> Tensor:
        """``(q − zero_point) · scale``: shape of ``codes``, in ``dtype``; equals ``fake_quantize``."""
        shape = tuple(self.codes.shape)
        q = self.format.decode(self.codes)
        if self.zero_point is not None:
            q = q - spread(self.zero_point, shape, self.group_shape)
        return to_dtype(q * spread(self.scale, shape, self.group_shape), self.dtype)

    @property
    def bits_per_value(self) -> float:
        """Effective bits an element: its code and its share of scales and zero points."""
        return bits_per_value(self.format, self.mode, self.codes.numel(), self.scale.numel())

    @property
    def nbytes(self) -> int:
        """Bytes that codes (packed) and scales take."""
        return -(-round(self.bits_per_value * self.codes.numel()) // 8)


def bits_per_value(format: Format, mode: Mode, elements: int, groups: int) -> float:
    """``bits + groups · (scale_bits + zero point's bits) / elements``; a tensor scale adds 32 bits.

    A format without a scale has ``bits``; so has an empty tensor.
    """
    if format.unit_scale or not elements:
        return float(format.bits)
    side = groups * (mode.rule.scale_bits + (format.bits if format.affine else 0))
    side += 32 if mode.rule.needs_tensor_amax else 0
    return format.bits + side / elements
