"""QLayerNorm: LayerNorm over codes whose channels have power-of-two factors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench_fqvit import ops


class QLayerNorm(nn.Module):
    """LayerNorm from int8 or int16 codes (…, C) to int8 codes (…, C); a constant row gives ``bias``.

    Buffers: ``shift`` int8 (C,), the exponents of the channels; ``gain`` int32 (C,), 2¹² gains in
    units of the output; ``bias`` int32 (C,) in units of the output.
    """

    shift: Tensor
    gain: Tensor
    bias: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(channels, dtype=torch.int8))
        self.register_buffer("gain", torch.zeros(channels, dtype=torch.int32))
        self.register_buffer("bias", torch.zeros(channels, dtype=torch.int32))

    def forward(self, codes: Tensor) -> Tensor:
        return ops.layer_norm(codes, self.shift, self.gain, self.bias)
