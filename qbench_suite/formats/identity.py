"""IdentityFormat: float32 itself, the baseline of every comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qbench_suite.errors import FormatError
from qbench_suite.formats.base import Format, Overflow, RoundKernel


@dataclass(frozen=True, kw_only=True)
class IdentityFormat(Format):
    """float32: every value is its own rounding; used without a scale."""

    bits: int = 32
    overflow: Overflow = Overflow.SPEC
    unit_scale: bool = True

    @property
    def code_table(self) -> Mapping[int, float]:
        """Not enumerable: raises ``FormatError``."""
        raise FormatError(
            f"Only formats up to 16 bits list their codes; {self.name} has 2^32. Use `round`."
        )

    @property
    def max(self) -> float:
        """The largest float32."""
        return torch.finfo(torch.float32).max

    @property
    def smallest(self) -> float:
        """The smallest positive (subnormal) float32."""
        return torch.finfo(torch.float32).smallest_normal * torch.finfo(torch.float32).eps

    def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
        return x.to(torch.float32)

    def round_kernel(self, device: torch.device) -> RoundKernel:
        if type(self).round is not IdentityFormat.round:
            return super().round_kernel(device)
        return RoundKernel(_identity)

    def contains(self, x: Tensor) -> Tensor:
        return x.isfinite()

    def encode(self, x: Tensor) -> Tensor:
        return x.to(torch.float32).view(torch.int32)

    def decode(self, codes: Tensor) -> Tensor:
        return codes.view(torch.float32)


def _identity(v: Tensor, noise: Tensor | None) -> Tensor:
    return v
