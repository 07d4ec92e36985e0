"""QResidual: the residual stream plus the int32 sums of a branch, in integers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench_fqvit import ops
from qbench_fqvit.linear import QuantLinear


class QResidual(nn.Module):
    """``clamp(round((x · m_x + acc · m_acc) / 2^s))``: codes (…, C) and int32 (…, C) → codes (…, C).

    Buffers: ``x_multiplier``, ``acc_multiplier`` int32 (C,), ``shift`` int8 (C,). ``bits`` of the
    result: 8 or 16. Halves are rounded up.
    """

    x_multiplier: Tensor
    acc_multiplier: Tensor
    shift: Tensor

    def __init__(self, channels: int, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("x_multiplier", torch.zeros(channels, dtype=torch.int32))
        self.register_buffer("acc_multiplier", torch.zeros(channels, dtype=torch.int32))
        self.register_buffer("shift", torch.ones(channels, dtype=torch.int8))

    def forward(self, x: Tensor, acc: Tensor) -> Tensor:
        return ops.residual(x, acc, self.x_multiplier, self.acc_multiplier, self.shift, self.bits)

    def after(self, linear: QuantLinear, codes: Tensor, x: Tensor) -> Tensor:
        """``self(x, linear(codes))`` in one operator."""
        return ops.linear_residual(
            codes,
            linear.weight,
            linear.bias,
            x,
            self.x_multiplier,
            self.acc_multiplier,
            self.shift,
            self.bits,
        )
