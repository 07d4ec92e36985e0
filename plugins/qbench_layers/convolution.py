"""Quantized 2-d convolutions: torch's, and timm's with 'same' padding or standardised weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from qbench_layers.base import QuantLayer
from qbench_suite import Axes, Role


class QuantConv2d(QuantLayer):
    """``y = Q(x) ∗ Q(W) + b``, W quantized once, b float; any stride, padding, dilation, groups.

    Roles: ``weight`` (out, in/groups, kh, kw), channels ``out``, chunks along ``in/groups``;
    ``input`` (N, in, H, W) or (in, H, W), features on ``in``, quantized before it is padded;
    ``output``, features on ``out``, only where a quantizer for it is given.

    A depthwise weight (out, 1, kh, kw) sums over kh · kw alone: it is quantized, and recorded, as
    (out, kh · kw); chunks of its second axis would otherwise give each element a scale of its own.
    Raises ``LayerError`` for a module that is not a Conv2d, or that computes something else.
    """

    float_types: ClassVar[tuple[str, ...]] = ("torch.nn.Conv2d",)
    optional_roles = (Role.OUTPUT,)
    features = -3

    weight: Tensor
    bias: Tensor | None
    #: Whether the input is padded as TensorFlow's SAME does, by its own size.
    same_pad: bool = False

    def take(self, module: Any) -> None:
        """Weight, bias and geometry of ``module``."""
        self.in_channels: int = module.in_channels
        self.out_channels: int = module.out_channels
        self.kernel_size: tuple[int, int] = module.kernel_size
        self.stride: tuple[int, int] = module.stride
        self.padding: tuple[int, int] | str = module.padding
        self.dilation: tuple[int, int] = module.dilation
        self.groups: int = module.groups
        self.padding_mode: str = module.padding_mode
        self.keep_weight("weight", self.effective_weight(module))
        self.keep("bias", module.bias)

    def effective_weight(self, module: Any) -> Tensor:
        """The weight that the float twin convolves with: (out, in/groups, kh, kw)."""
        weight: Tensor = module.weight
        return weight

    def quantize_weight(
        self, name: str, weight: Tensor, axes: Axes | None = None, *, role: Role = Role.WEIGHT
    ) -> Tensor:
        """As the base class does, in the view (out, kh · kw · in): all that an output sums over.

        Channels come first in that order, so that a chunk is one of channels at a position of the
        window where there are enough of them, and several positions where there are few (a stem, a
        depthwise convolution).
        """
        out, channels, height, width = weight.shape
        flat = weight.permute(0, 2, 3, 1).reshape(out, -1)
        flat = super().quantize_weight(name, flat, axes, role=role)
        result = flat.view(out, height, width, channels).permute(0, 3, 1, 2)
        # The memory order of the weight decides that of the output.
        return torch.empty_like(weight).copy_(result)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) → (N, out, H', W')."""
        x, padding = self._pad(self.quantize(Role.INPUT, "input", x))
        y = F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        return self.quantize(Role.OUTPUT, "output", y)

    def _pad(self, x: Tensor) -> tuple[Tensor, tuple[int, int] | str]:
        """``x`` with the padding that conv2d cannot do, and the padding left for conv2d."""
        if self.same_pad:
            sizes = (x.shape[-2:], self.kernel_size, self.stride, self.dilation)
            amounts = [_same_amount(*axis) for axis in zip(*sizes, strict=True)]
            return F.pad(x, _before_and_after(amounts)), (0, 0)
        if self.padding_mode != "zeros":
            return F.pad(x, self._border(), mode=self.padding_mode), (0, 0)
        return x, self.padding

    def _border(self) -> list[int]:
        """Elements to add before and after each axis, the last axis first."""
        if self.padding == "valid":
            return [0, 0, 0, 0]
        if isinstance(self.padding, str):
            axes = zip(self.dilation, self.kernel_size, strict=True)
            return _before_and_after([dilation * (kernel - 1) for dilation, kernel in axes])
        return _before_and_after([2 * border for border in self.padding])


class QuantConv2dSame(QuantConv2d):
    """``QuantConv2d`` of timm's Conv2dSame: zeros are added until ``H' = ceil(H / stride)``.

    Roles, shapes and ``Raises`` are those of ``QuantConv2d``.
    """

    float_types = ("timm.layers.conv2d_same.Conv2dSame",)
    same_pad = True


class QuantStdConv2d(QuantConv2d):
    """``QuantConv2d`` of timm's StdConv2d and StdConv2dSame, of ``Ŵ = (W − μ) / √(σ² + ε)``.

    μ and σ² are those of each output channel; W is standardised once, then quantized (Qiao et al.
    2019, arXiv:1903.10520). Roles, shapes and ``Raises`` are those of ``QuantConv2d``.
    """

    float_types = ("timm.layers.std_conv.StdConv2d", "timm.layers.std_conv.StdConv2dSame")

    def take(self, module: Any) -> None:
        """As for every convolution, and whether the padding is SAME."""
        super().take(module)
        self.same_pad = getattr(module, "same_pad", False)

    def effective_weight(self, module: Any) -> Tensor:
        """The standardised weight."""
        return _standardise(module.weight, self._gain(module), module.eps)

    def _gain(self, module: Any) -> Tensor | None:
        return None


class QuantScaledStdConv2d(QuantStdConv2d):
    """``QuantConv2d`` of timm's ScaledStdConv2d and ScaledStdConv2dSame.

    ``Ŵ = gain · γ / √fan_in · (W − μ) / √(σ² + ε)``, once, then quantized (Brock et al. 2021,
    arXiv:2101.08692). Roles, shapes and ``Raises`` are those of ``QuantConv2d``.
    """

    float_types = (
        "timm.layers.std_conv.ScaledStdConv2d",
        "timm.layers.std_conv.ScaledStdConv2dSame",
    )

    def _gain(self, module: Any) -> Tensor | None:
        gain: Tensor = (module.gain * module.scale).view(-1)
        return gain


@torch.no_grad()
def _standardise(weight: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    # A batch norm over one sample of `out` channels, as timm has it: the same bits.
    rows = weight.reshape(1, weight.shape[0], -1)
    rows = F.batch_norm(rows, None, None, gain, training=True, momentum=0.0, eps=eps)
    return rows.reshape_as(weight)


def _same_amount(size: int, kernel: int, stride: int, dilation: int) -> int:
    """Elements that make the output ``ceil(size / stride)`` long."""
    return max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)


def _before_and_after(amounts: Sequence[int]) -> list[int]:
    """Total padding of each axis in halves, the larger after; the last axis first, as in F.pad."""
    return [part for total in reversed(amounts) for part in (total // 2, total - total // 2)]
