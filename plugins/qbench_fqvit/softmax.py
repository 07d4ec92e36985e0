"""QuantIntSoft: Log-Int-Softmax, from int32 scores to codes of attention weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench_fqvit import ops
from qbench_fqvit.act import QAct
from qbench_fqvit.layout import Layout


class QuantIntSoft(nn.Module):
    """int32 scores (B, H, T, S) → codes uint8 (B, H, T, S) of their softmax over S.

    Scores, plus ``bias`` int32 (W, H, T, S) of their window, are requantized to int8 logits by
    ``multiplier`` int32 (H,) and one shift; a logit d below the largest of its row weighs
    ``exp_table[d]``, int32 (256,); the code is the logarithm of the row's sum over it, in whole powers
    of two (``"lis4"``) or in sixteenths of them (``"log8"``), or its share of that sum in 256ths
    (``"uniform8"``). A bias of −2³¹ masks: its weight is exactly 0.
    """

    multiplier: Tensor
    exp_table: Tensor
    bias: Tensor | None

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.code, self.shift = layout.softmax, layout.score_shift
        shape = layout.bias_shape
        self.register_buffer("multiplier", torch.zeros(layout.heads, dtype=torch.int32))
        self.register_buffer("exp_table", torch.zeros(256, dtype=torch.int32))
        self.register_buffer(
            "bias", None if shape is None else torch.zeros(shape, dtype=torch.int32)
        )

    def forward(self, scores: Tensor) -> Tensor:
        return ops.softmax_codes(
            scores, self.multiplier, self.shift, self.exp_table, self.bias, self.code
        )

    def attend(self, qkv: Tensor, act: QAct) -> Tensor:
        """Attention in one operator: int8 (B, T, 3, H, D) → int8 context (B, T, H·D)."""
        return ops.attention(
            qkv,
            self.multiplier,
            self.shift,
            self.exp_table,
            self.bias,
            act.multiplier,
            act.shift,
            self.code,
        )
