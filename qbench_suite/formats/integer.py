"""IntFormat: two's complement integers, symmetric or affine (with a zero point)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qbench_suite.errors import FormatError
from qbench_suite.formats.base import Format, Rounding, RoundKernel
from qbench_suite.formats.steps import STEP_ROUNDERS


@dataclass(frozen=True, kw_only=True)
class IntFormat(Format):
    """The integers ``low … high`` as two's complement codes of ``bits`` bits.

    A symmetric format leaves the most negative code unused (``low = −high``), so that −x is always
    representable; an affine one shifts by a zero point that is itself an integer of the format.
    Rounding saturates; NaN stays NaN and has no code; −0 becomes +0.
    """

    #: The smallest integer.
    low: int
    #: The largest integer.
    high: int

    def __post_init__(self) -> None:
        span = 2**self.bits
        signed = -span // 2 <= self.low < 0 < self.high < span // 2
        unsigned = self.low == 0 and 0 < self.high < span
        exact = max(-self.low, self.high) <= 2**24
        if not (exact and (signed or unsigned)):
            raise FormatError(
                f"The integers low … high must fit {self.bits} bits, and float32; {self.name!r} has "
                f"{self.low} … {self.high}. Widen `bits` or narrow the range."
            )

    @functools.cached_property
    def code_table(self) -> Mapping[int, float]:
        return {n % 2**self.bits: float(n) for n in range(self.low, self.high + 1)}

    def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
        kernel = _round_kernel(self, x.device)
        return kernel.function(x.to(torch.float32), noise, *kernel.constants)

    def round_kernel(self, device: torch.device) -> RoundKernel:
        """Rounds to integers, then saturates to (low, high), the two constants.

        The kernel of an affine format passes (low, high) − zero_point instead.
        """
        if type(self).round is not IntFormat.round:
            return super().round_kernel(device)
        return _round_kernel(self, device)

    def contains(self, x: Tensor) -> Tensor:
        return (x == torch.round(x)) & (x >= self.low) & (x <= self.high)


@functools.cache
def _rounder(rounding: Rounding) -> Callable[..., Tensor]:
    step = STEP_ROUNDERS[rounding]

    def round_integer(v: Tensor, noise: Tensor | None, low: Tensor, high: Tensor) -> Tensor:
        # Nearest needs no sign handling, as ties to even are symmetric; it is the hot path.
        r = torch.round(v) if rounding is Rounding.NEAREST else v.sign() * step(v.abs(), noise)
        r = torch.minimum(torch.maximum(r, low), high)
        return torch.where(r == 0, 0.0, r)

    return round_integer


@functools.cache
def _round_kernel(format: IntFormat, device: torch.device) -> RoundKernel:
    bounds = (format.low, format.high)
    constants = tuple(torch.tensor(float(b), dtype=torch.float32, device=device) for b in bounds)
    return RoundKernel(_rounder(format.rounding), constants)
