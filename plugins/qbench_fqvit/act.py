"""QAct: int32 sums back to int8 codes, through a table of any elementwise function on the way."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench_fqvit import ops
from qbench_fqvit.linear import QuantLinear


class QAct(nn.Module):
    """``clamp(round(acc · m / 2^s) + zero_point)``, int32 (…, N) → int8 (…, N), and then the table.

    Buffers: ``multiplier`` int32 (N,), ``shift`` int8 (N,), ``table`` int8 (256,): the activation of
    each code, from −128 up. Halves are rounded up.
    """

    multiplier: Tensor
    shift: Tensor
    table: Tensor | None

    def __init__(self, channels: int, zero_point: int = 0, *, lookup: bool = False) -> None:
        super().__init__()
        self.zero_point = zero_point
        self.register_buffer("multiplier", torch.zeros(channels, dtype=torch.int32))
        self.register_buffer("shift", torch.ones(channels, dtype=torch.int8))
        self.register_buffer("table", torch.zeros(256, dtype=torch.int8) if lookup else None)

    def forward(self, acc: Tensor) -> Tensor:
        if self.table is None:
            return ops.requantize(acc, self.multiplier, self.shift, self.zero_point)
        return ops.requantize_lookup(acc, self.multiplier, self.shift, self.zero_point, self.table)

    def after(self, linear: QuantLinear, codes: Tensor) -> Tensor:
        """``self(linear(codes))`` in one operator."""
        return ops.linear_requantize(
            codes,
            linear.weight,
            linear.bias,
            self.multiplier,
            self.shift,
            self.zero_point,
            self.table,
        )
