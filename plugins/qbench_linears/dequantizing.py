"""DequantizingLinear: int8 weights that become float in every forward."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

_LARGEST = 127


class DequantizingLinear(nn.Module):
    """A linear layer of int8 weights with a scale an output, made float before each product.

    ``w ≈ s · q``, ``s = max|w| / 127`` over a row of the weight (out, in), 1 for a row of zeros. It
    stores a quarter of float32 and is slower than float32: what it writes to memory for every forward
    is the float weight. NaN and ±Inf in the weight are no codes and give what casts give.
    """

    codes: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.float().abs().amax(dim=1, keepdim=True) / _LARGEST
        scale[scale == 0] = 1
        self.register_buffer("codes", (weight.float() / scale).round().char())
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def dequantize(self) -> Tensor:
        """The values that the codes stand for, (out, in) in float32."""
        return self.codes * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.codes.to(x.dtype) * self.scale.to(x.dtype), self.bias)
