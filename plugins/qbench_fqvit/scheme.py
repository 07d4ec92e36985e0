"""Scheme: the choices that turn a float block into an integer one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qbench_fqvit.ops import tables
from qbench_suite import ConversionError, RangeRule


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How a transformer block is quantized.

    Raises ``ConversionError`` for a value outside its domain.
    """

    #: Largest power-of-two exponent K of a channel of the residual stream; 0 for one scale a tensor.
    ptf: int = 5
    #: Codes of attention weights: ``"uniform8"`` in 256ths, ``"lis4"`` powers of two (Log-Int-Softmax),
    #: ``"log8"`` sixteenths of octaves.
    softmax: str = "log8"
    #: Bits of the residual stream, which is what goes in and out of a block: 8 or 16.
    residual_bits: int = 8
    #: Scales that cost nothing at run time: see ``docs/explanation/integer-vit.md``.
    folding: bool = True
    #: Whether every scale is a power of two, so that every requantization is a shift.
    power_of_two: bool = False
    #: Which range of the values seen a scale covers; None for the whole range.
    observer: RangeRule | None = None

    def __post_init__(self) -> None:
        domains: tuple[tuple[str, Sequence[int | str]], ...] = (
            ("ptf", range(8)),
            ("softmax", tables.CODES),
            ("residual_bits", (8, 16)),
            ("folding", (False, True)),
            ("power_of_two", (False, True)),
        )
        for field, domain in domains:
            value = getattr(self, field)
            # 2.0 and True equal integers, and are none here.
            if type(value) is not type(domain[0]) or value not in domain:
                raise ConversionError(
                    f"Scheme.{field} is one of {', '.join(map(str, domain))}; got {value!r}."
                )
        if not isinstance(self.observer, RangeRule | None):
            raise ConversionError(
                f"Scheme.observer is a range rule, or None; got {self.observer!r}. Take one by name "
                "from default_manager().range_rules.get."
            )

    @property
    def top(self) -> int:
        """The largest code of the residual stream."""
        return (1 << (self.residual_bits - 1)) - 1

    def rounded(self, scale: Tensor) -> Tensor:
        """``scale`` as it may be: itself, or the next power of two from it up."""
        return torch.exp2(torch.log2(scale).ceil()) if self.power_of_two else scale
