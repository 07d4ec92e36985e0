"""Scale rules: from the absolute maximum of a group to its scale, in pure torch (float32)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

_EXPONENT_MASK = 0x7F800000
#: Scales below the smallest normal float32 would lose precision, and flush to zero on some devices.
_MIN_SCALE = 2.0**-126
#: A scale times the format's largest value must stay finite.
_MAX_ABSOLUTE = 3.4e38
_E4M3_MAX = 448.0
_E4M3_SMALLEST = 2.0**-9


class ScaleRule(ABC):
    """Turns absolute maxima into scales.

    ``scale`` is traced into the fused kernel: it must be pure torch, element by element, in float32.
    A group of zeros (``amax`` 0) gets scale 1 from the kernel, whatever the rule says.
    """

    #: Bits that store one scale.
    scale_bits: float = 32.0
    #: Whether ``scale`` needs the absolute maximum of the whole tensor.
    needs_tensor_amax: bool = False

    @abstractmethod
    def scale(self, amax: Tensor, top: Tensor, tensor_amax: Tensor) -> Tensor:
        """Scales of groups whose absolute maximum is ``amax`` > 0, same shape.

        ``top`` (0-d) is the format's largest magnitude; ``tensor_amax`` (0-d) the tensor's absolute
        maximum where the rule needs it, else 0.
        """


@dataclass(frozen=True)
class AbsMax(ScaleRule):
    """``scale = amax / top`` in float32: the absolute maximum maps to the largest value."""

    def scale(self, amax: Tensor, top: Tensor, tensor_amax: Tensor) -> Tensor:
        return torch.clamp(torch.clamp(amax, max=_MAX_ABSOLUTE) / top, _MIN_SCALE, _MAX_ABSOLUTE)


@dataclass(frozen=True)
class PowerOfTwo(ScaleRule):
    """E8M0 scales: ``2^(floor(log2 amax) − emax)``, emax the exponent of the largest value.

    The OCP Microscaling specification v1.0, section 6.3; elements above the largest value saturate.
    With ``ceil``: the smallest power of two with ``amax / scale ≤ top``, so that nothing saturates.
    Scales are clamped to 2^−127 … 2^(127 − emax), so that every value times its scale is finite.
    """

    #: Round the exponent up instead of down.
    ceil: bool = False
    scale_bits = 8.0

    def scale(self, amax: Tensor, top: Tensor, tensor_amax: Tensor) -> Tensor:
        unit = _power_of_two_below(top)
        if not self.ceil:
            return torch.clamp(_power_of_two_below(amax) / unit, 2.0**-127, 2.0**127)
        ratio = torch.clamp(amax / top, min=_MIN_SCALE)
        power = _power_of_two_below(ratio)
        up = torch.where(ratio > power, torch.clamp(power, max=2.0**126) * 2.0, power)
        return torch.minimum(up, torch.clamp(2.0**127 / unit, max=2.0**127))


@dataclass(frozen=True)
class TwoLevel(ScaleRule):
    """NVFP4's pair of scales: an E4M3 scale a group under one float32 scale a tensor.

    ``t = tensor_amax / (448 · top)``; ``scale = E4M3(amax / top / t) · t``, the E4M3 factor rounded
    to nearest and kept within 2^−9 … 448 (its smallest subnormal and its largest value).
    """

    scale_bits = 8.0
    needs_tensor_amax = True

    def scale(self, amax: Tensor, top: Tensor, tensor_amax: Tensor) -> Tensor:
        bounded = torch.clamp(tensor_amax, max=_MAX_ABSOLUTE)
        tensor_scale = torch.clamp(bounded / (_E4M3_MAX * top), min=_MIN_SCALE)
        factor = torch.clamp(amax / top / tensor_scale, _E4M3_SMALLEST, _E4M3_MAX)
        return _round_e4m3(factor) * tensor_scale


def _power_of_two_below(x: Tensor) -> Tensor:
    """2^floor(log2 x) of float32 x > 0 from its bits; 0 for subnormal x."""
    return (x.view(torch.int32) & _EXPONENT_MASK).view(torch.float32)


def _round_e4m3(x: Tensor) -> Tensor:
    """Positive x ≤ 448 rounded to E4M3, nearest even: 3 mantissa bits, smallest step 2^−9."""
    offset = torch.clamp(_power_of_two_below(x), min=2.0**-6) * (1.5 * 2.0**20)
    return (x + offset) - offset
