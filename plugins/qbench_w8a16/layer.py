"""W8A16LinearLayer: a linear layer whose weights stay integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from qbench_suite import LayerError
from qbench_w8a16 import kernels, sizes
from qbench_w8a16.codes import dequantized, packed, quantized


@dataclass(frozen=True)
class Storage:
    """Bytes of the weights of a layer, bias left out."""

    #: As float32.
    float32: int
    #: As bfloat16 or float16.
    float16: int
    #: As codes and scales, both counted.
    stored: int


class W8A16LinearLayer(nn.Module):
    """``y[m, n] = Σ_k x[m, k] · q[n, k] · s[n, k // group] + b[n]`` with integers q that are not trained.

    ``s = max|w| / 127`` (7 for ``bits=4``) over ``group_size`` consecutive weights of a row, by default
    the whole row for 8 bits and 128 for 4; ``q = round(w / s)``, ties to even, so that a weight is off
    by s / 2 at most. A group of zeros has scale 1. Buffers: ``codes``, int8 (out, in), or uint8
    (out, ⌈in / 2⌉) with two 4-bit codes a byte, the even one in the low half; ``scales``, float32
    (out, ⌈in / group_size⌉), which stay float32 under ``.to(dtype)``. A state dict also holds bits, width
    and group size, and is loaded only into a layer that has the same.

    Inputs are (…, in) of ``dtype``: float32, bfloat16 or float16 (float64 after ``.to(torch.float64)``);
    under autocast they are cast to its dtype, as those of ``nn.Linear`` are. Sums are float32; a kernel
    that does not apply scales to sums rounds ``q · s`` to ``dtype`` once. On a CPU float16 is computed
    in float32. NaN makes its row NaN. ±Inf makes its row ±Inf or NaN, NaN also where a small weight has
    become code 0. Where scales apply to sums, inputs beyond 3e38 / (127 · in) may overflow that would not
    in the float layer. Gradients (reverse mode) flow to x and bias, not to codes and scales.
    Fresh layers have weights 0. Raises ``LayerError`` for sizes, dtypes and widths it does not have.
    """

    codes: Tensor
    scales: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        dtype: torch.dtype = torch.bfloat16,
        bits: int = 8,
        *,
        group_size: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        sizes.check_sizes(in_features, out_features, bits)
        sizes.check_dtype(dtype)
        group = sizes.group_of(group_size, in_features, bits)
        self.in_features, self.out_features, self.bits = in_features, out_features, bits
        #: Consecutive weights of a row that share a scale.
        self.group_size = group
        #: That of inputs and outputs; ``.to(dtype)`` changes it.
        self.dtype = dtype
        codes = torch.zeros(out_features, in_features, dtype=torch.int8, device=device)
        self.register_buffer("codes", codes if bits == 8 else packed(codes))
        groups = -(-in_features // group)
        self.register_buffer("scales", torch.ones(out_features, groups, device=device))
        zeros = torch.zeros(out_features, dtype=dtype, device=device)
        self.bias = nn.Parameter(zeros, requires_grad=False) if bias else None

    @classmethod
    def from_float(
        cls,
        linear: nn.Linear,
        *,
        bits: int = 8,
        group_size: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """The layer with the weights of ``linear``, for its dtype unless another is named.

        ``linear`` stays as it is. Raises ``LayerError`` for weights that are not finite, and for what
        is no ``nn.Linear``.
        """
        if not isinstance(linear, nn.Linear):
            raise LayerError(
                f"W8A16LinearLayer is made out of torch.nn.Linear; got {type(linear).__name__}. Use "
                "quantize(weights) on a layer of its sizes."
            )
        layer = cls(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            dtype or linear.weight.dtype,
            bits,
            group_size=group_size,
            device=linear.weight.device,
        )
        layer.quantize(linear.weight)
        layer._take_bias(linear.bias)
        return layer.train(linear.training)

    @classmethod
    def from_codes(
        cls,
        codes: Tensor,
        scales: Tensor,
        bias: Tensor | None,
        *,
        dtype: torch.dtype,
        bits: int = 8,
        group_size: int | None = None,
    ) -> Self:
        """The layer with these codes, int8 (out, in) and not packed, and scales (out, groups).

        For weights that another rule has rounded. Raises ``LayerError`` for codes that are no integers
        or beyond ±127 (±7), scales that are not finite, and other shapes.
        """
        sizes.check_codes(codes)
        (rows, width), device = codes.shape, codes.device
        layer = cls(
            width, rows, bias is not None, dtype, bits, group_size=group_size, device=device
        )
        sizes.check_values(codes, scales, layer.scales.shape, layer.group_size, bits)
        sizes.check_bias(bias, rows)
        layer._take(codes.to(torch.int8), scales)
        layer._take_bias(bias)
        return layer

    @torch.no_grad()
    def quantize(self, weights: Tensor) -> None:
        """Replace the weights by these, float (out, in), rounded to nearest.

        Raises ``LayerError`` for another shape, and for NaN and ±Inf; the layer then stays as it was.
        """
        expected = (self.out_features, self.in_features)
        if tuple(weights.shape) != expected or not weights.is_floating_point():
            raise LayerError(
                f"Weights are float, of shape (out_features, in_features) = {expected}; got "
                f"{weights.dtype} {tuple(weights.shape)}. Transpose them, or make another layer."
            )
        self._take(*quantized(weights.to(self.codes.device), self.bits, self.group_size))

    def dequantize(self) -> Tensor:
        """The weights that the layer computes with, ``q · s``: float32 (out, in)."""
        return dequantized(self.codes, self.scales, self.group_size, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out), of the dtype of x. Raises ``LayerError`` for another width or dtype."""
        wanted, where = self.dtype, x.device.type
        if where != "meta" and torch.is_autocast_enabled(where):
            x = _autocast(x)
            wanted = torch.get_autocast_dtype(where)
        if x.dtype != wanted or x.dim() == 0 or x.shape[-1] != self.in_features:
            raise LayerError(
                f"Inputs are (…, {self.in_features}) of {self.dtype}; got {tuple(x.shape)} of {x.dtype}. "
                "Convert them, or the layer with .to(dtype)."
            )
        # Not self.codes: to look up the attributes of a module takes as long as a small product.
        codes, scales = self._buffers["codes"], self._buffers["scales"]
        bias = self._parameters.get("bias")
        assert codes is not None
        assert scales is not None
        trained = x.requires_grad or (bias is not None and bias.requires_grad)
        if trained or torch.compiler.is_compiling():
            return kernels.linear(x, codes, scales, bias, self.group_size)
        return kernels.inferred(x, codes, scales, bias, self.group_size)

    @property
    def weight(self) -> Tensor:
        """``dequantize()`` of ``dtype``, made at each look: for code that reads the weights of a layer."""
        return self.dequantize().to(self.dtype)

    def storage(self) -> Storage:
        """Bytes before and after: 4 and 2 an element, against codes and scales as they are stored."""
        elements = self.in_features * self.out_features
        return Storage(4 * elements, 2 * elements, self.codes.nbytes + self.scales.nbytes)

    def kernel(self, rows: int) -> str:
        """Name of the kernel that computes ``rows`` rows here."""
        x = torch.empty(rows, self.in_features, dtype=self.dtype, device=self.codes.device)
        return kernels.kernel_for(kernels.widened(x), self.codes, self.scales, self.group_size).name

    def extra_repr(self) -> str:
        """Sizes, bits, group and dtype."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias="
            f"{self.bias is not None}, bits={self.bits}, group_size={self.group_size}, dtype={self.dtype}"
        )

    def _take(self, codes: Tensor, scales: Tensor) -> None:
        self.codes.copy_(codes if self.bits == 8 else packed(codes))
        self.scales.copy_(scales)

    def _take_bias(self, bias: Tensor | None) -> None:
        if self.bias is not None and bias is not None:
            self.bias.data.copy_(bias.detach())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert; scales keep their dtype, as rounding them would scale whole rows wrongly."""
        dtype = fn(torch.empty(0, dtype=self.dtype, device=self.scales.device)).dtype
        # float64 too, in which torch multiplies: a model is not to stop half converted.
        sizes.check_dtype(dtype, (*sizes.DTYPES, torch.float64))
        scales = self.scales
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.scales.dtype != torch.float32:
            self.scales = scales.to(self.scales.device)
        self.dtype = dtype
        return self

    def get_extra_state(self) -> Tensor:
        """Bits, inputs and group size, which the shapes of codes and scales leave open."""
        return torch.tensor([self.bits, self.in_features, self.group_size])

    def set_extra_state(self, state: Any) -> None:
        """Raises ``LayerError`` for the state of a layer with other bits, inputs or group size."""
        expected, found = self.get_extra_state().tolist(), torch.as_tensor(state).tolist()
        if found != expected:
            raise LayerError(
                f"A state dict is that of a layer with the same [bits, in_features, group_size], "
                f"{expected}; got {found}. Make the layer with those that were saved."
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        codes = state_dict.get(f"{prefix}codes")
        if codes is not None and codes.dtype != self.codes.dtype:
            raise LayerError(
                f"Codes of {self.bits} bits are {self.codes.dtype}; the state dict has {codes.dtype} in "
                f"{prefix}codes. Make the layer with the bits that were saved."
            )
        if (extra := state_dict.get(f"{prefix}_extra_state")) is not None:
            self.set_extra_state(extra)  # before anything is loaded
        scales = state_dict.get(f"{prefix}scales")
        if scales is not None and scales.dtype != torch.float32:
            # With assign=True they would replace those of the layer as they are.
            state_dict[f"{prefix}scales"] = scales.to(torch.float32)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _autocast(x: Tensor) -> Tensor:
    """What ``nn.Linear`` does to its inputs under autocast: float64 and integers stay."""
    if not x.is_floating_point() or x.dtype is torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(x.device.type))
