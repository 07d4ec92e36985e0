"""QuantLinear: int8 codes times int8 weights, summed in int32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qbench_fqvit import ops
from qbench_fqvit.dyadic import as_int32
from qbench_fqvit.live import LiveFloats
from qbench_suite import ConversionError

#: Largest weight code; −128 is left unused, so that −w is always representable.
TOP = 127


@dataclass(frozen=True)
class LinearOrigin(LiveFloats):
    """The float layer that a ``QuantLinear`` stands for, in units of the codes it reads.

    ``y = weight @ (code − zero_point) + bias``, of which the layer computes ``y / scale``.
    """

    #: (out, in) float32.
    weight: Tensor
    #: (out,) float32.
    bias: Tensor
    #: Scale of the rows of the weight, and of what the layer gives: (out,) float32.
    scale: Tensor
    #: Zero point of the codes that the layer reads.
    zero_point: int = 0

    def nearest(self) -> Tensor:
        """Codes of the weight, rounded to nearest: (out, in) int8."""
        return torch.round(self.weight / self.scale[:, None]).clamp(-TOP, TOP).to(torch.int8)

    def bias_for(self, codes: Tensor, what: str) -> Tensor:
        """The int32 bias that goes with weight ``codes``: it takes the zero point back out."""
        sums = codes.sum(1, dtype=torch.int64)
        exact = torch.round(self.bias.double() / self.scale.double())
        return as_int32(exact - self.zero_point * sums, what)


class QuantLinear(nn.Module):
    """int8 codes (…, in) → int32 sums (…, out); the scales of both sides live in what follows.

    Buffers: ``weight`` int8 (out, in), ``bias`` int32 (out,).
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(outputs, inputs, dtype=torch.int8))
        self.register_buffer("bias", torch.zeros(outputs, dtype=torch.int32))
        #: None for a layer that was loaded or unpickled: integers do not tell what they were rounded
        #: from. ``release_float`` of the block frees it.
        self.origin: LinearOrigin | None = None

    def forward(self, codes: Tensor) -> Tensor:
        return ops.gemm(codes, self.weight, self.bias)

    def set_codes(self, codes: Tensor) -> None:
        """Give the weight other codes, (out, in) integers of any dtype within −127 … 127.

        The bias follows. Raises ``ConversionError`` for other values or another shape, and for a layer
        without ``origin``.
        """
        origin = self.known_origin()
        values = codes.double()
        whole = bool(((values == values.round()) & (values.abs() <= TOP)).all())
        if codes.shape != self.weight.shape or not whole:
            raise ConversionError(
                f"Weight codes are integers in −{TOP} … {TOP} of shape {tuple(self.weight.shape)}; got "
                f"{codes.dtype} of shape {tuple(codes.shape)}. Round and clamp them first."
            )
        codes = codes.to(torch.int8)
        bias = origin.bias_for(codes, "the bias of a QuantLinear")
        self.weight.copy_(codes)
        self.bias.copy_(bias)

    def known_origin(self) -> LinearOrigin:
        """``origin``; raises ``ConversionError`` where there is none."""
        if self.origin is None:
            raise ConversionError(
                "Weights are rounded anew from the float weights; this QuantLinear has none, as it "
                "was loaded, unpickled or released. Convert the float model again."
            )
        return self.origin
