"""The kernel for every device: blocks of weights are made float, and multiplied by the library."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from qbench_w8a16 import native
from qbench_w8a16.codes import dequantized

#: Outputs whose float weights exist at a time.
_OUTPUTS = 512


def linear(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, group: int) -> Tensor:
    """(rows, in) → (rows, out): ``F.linear`` with weights ``code · scale``, rounded to the dtype of x."""
    outputs = codes.shape[0]
    y = x.new_empty(x.shape[0], outputs)
    weights = x.new_empty(min(_OUTPUTS, outputs), x.shape[1])
    for first in range(0, outputs, _OUTPUTS):
        tile = slice(first, first + _OUTPUTS)
        block = weights[: min(_OUTPUTS, outputs - first)]
        _decode(codes[tile], scales[tile], group, block)
        y[:, tile] = F.linear(x, block, None if bias is None else bias[tile].to(x.dtype))
    return y


def _decode(codes: Tensor, scales: Tensor, group: int, weights: Tensor) -> None:
    if weights.device.type == "cpu" and native.decoder(weights.dtype) is not None:
        native.decode(codes, scales, group, weights)
    else:
        weights.copy_(dequantized(codes, scales, group, weights.shape[1]))
