"""Scheme: the choices that turn a float block into an integer one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qbench_suite import ConversionError, RangeRule


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How a transformer block is quantized.

    Raises ``ConversionError`` for a value outside its domain.
    """

    #: Largest power-of-two exponent K of a channel of the residual stream; 0 for one scale a tensor.
    ptf: int = 5
    #: Bits of the codes of attention weights: 4 for powers of two, 8 for sixteenths of an octave.
    softmax_bits: int = 8
    #: Bits of the residual stream, which is what goes in and out of a block: 8 or 16.
    residual_bits: int = 8
    #: Scales that cost nothing at run time: see ``docs/explanation/integer-vit.md``.
    folding: bool = True
    #: Whether every scale is a power of two, so that every requantization is a shift.
    power_of_two: bool = False
    #: Which range of the values seen a scale covers; None for the whole range.
    observer: RangeRule | None = None

    def __post_init__(self) -> None:
        domains = (("ptf", range(8)), ("softmax_bits", (4, 8)), ("residual_bits", (8, 16)))
        for field, domain in domains:
            if getattr(self, field) not in domain:
                raise ConversionError(
                    f"Scheme.{field} is one of {', '.join(map(str, domain))}; got "
                    f"{getattr(self, field)!r}."
                )

    @property
    def top(self) -> int:
        """The largest code of the residual stream."""
        return (1 << (self.residual_bits - 1)) - 1

    def rounded(self, scale: Tensor) -> Tensor:
        """``scale`` as it may be: itself, or the next power of two from it up."""
        return torch.exp2(torch.log2(scale).ceil()) if self.power_of_two else scale
