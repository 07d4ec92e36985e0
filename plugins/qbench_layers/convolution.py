"""Quantized convolutions: torch's, and timm's with 'same' padding or standardised weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from qbench_layers.base import QuantLayer
from qbench_layers.weight_layout import ConvolutionWeights
from qbench_suite import LinearMap, Role


class QuantConvolution(ConvolutionWeights, LinearMap, QuantLayer):
    """``y = Q(x) ∗ Q(W) + b``, W quantized once, b float; any stride, padding, dilation, groups.

    Roles: ``weight`` (out, in/groups, *kernel), quantized and recorded in the view of all that an output
    sums over, (out, kernel · in/groups); ``input`` (N, in, …) or (in, …), features on ``in``,
    quantized before it is padded; ``output``, features on ``out``, only where a quantizer for it is
    given. Raises ``LayerError`` for a module of another type, or that computes something else.
    """

    optional_roles = (Role.OUTPUT,)
    #: What convolves: torch's function of as many spatial axes.
    convolve: ClassVar[Callable[..., Tensor]]

    #: Whether the input is padded as TensorFlow's SAME does, by its own size.
    same_pad: bool = False

    def take(self, module: Any) -> None:
        """Weight, bias and geometry of ``module``."""
        self.in_channels: int = module.in_channels
        self.out_channels: int = module.out_channels
        self.kernel_size: tuple[int, ...] = module.kernel_size
        self.stride: tuple[int, ...] = module.stride
        self.padding: tuple[int, ...] | str = module.padding
        self.dilation: tuple[int, ...] = module.dilation
        self.groups: int = module.groups
        self.padding_mode: str = module.padding_mode
        self.keep_weight("weight", self.effective_weight(module))
        self.keep("bias", module.bias)

    def effective_weight(self, module: Any) -> Tensor:
        """The weight that the float twin convolves with: (out, in/groups, *kernel)."""
        weight: Tensor = module.weight
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, …) → (N, out, …)."""
        x, padding = self._pad(self.quantize(Role.INPUT, "input", x))
        geometry = (self.stride, padding, self.dilation, self.groups)
        y = type(self).convolve(x, self.weight, self.bias, *geometry)
        return self.quantize(Role.OUTPUT, "output", y)

    def patches(self, x: Tensor) -> Tensor:
        """(groups, windows, kernel · in/groups) of (N, in, …) or (in, …), padded as ``forward`` does."""
        rank = len(self.kernel_size)
        x, padding = self._pad(x if x.dim() == rank + 2 else x[None])
        if padding not in ("valid", (0,) * rank):
            x = F.pad(x, self._border())
        windows = x.reshape(x.shape[0], self.groups, -1, *x.shape[2:])  # (N, g, in/g, …)
        for axis in range(rank):
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            windows = windows.unfold(3 + axis, reach, self.stride[axis])
            windows = windows[..., :: self.dilation[axis]]
        # (N, g, in/g, windows …, kernel …): channels go last, and the groups first.
        windows = windows.movedim(2, -1).transpose(0, 1)
        return windows.reshape(self.groups, -1, self.weight[:1].numel())

    def lay_rows(self, rows: Tensor, weight: Tensor) -> None:
        """Rows (out, kernel · in/groups) as (out, in/groups, *kernel)."""
        view = self.outputs_first(weight)
        view.copy_(rows.view(view.shape))

    def _pad(self, x: Tensor) -> tuple[Tensor, tuple[int, ...] | str]:
        """``x`` with the padding that torch's function cannot do, and the padding left for it."""
        unpadded = (0,) * len(self.kernel_size)
        if self.same_pad:
            sizes = (
                x.shape[-len(self.kernel_size) :],
                self.kernel_size,
                self.stride,
                self.dilation,
            )
            amounts = [_same_amount(*axis) for axis in zip(*sizes, strict=True)]
            return F.pad(x, _before_and_after(amounts)), unpadded
        if self.padding_mode != "zeros":
            return F.pad(x, self._border(), mode=self.padding_mode), unpadded
        return x, self.padding

    def _border(self) -> list[int]:
        """Elements to add before and after each axis, the last axis first."""
        if self.padding == "valid":
            return [0, 0] * len(self.kernel_size)
        if isinstance(self.padding, str):
            axes = zip(self.dilation, self.kernel_size, strict=True)
            return _before_and_after([dilation * (kernel - 1) for dilation, kernel in axes])
        return _before_and_after([2 * border for border in self.padding])


class QuantConv1d(QuantConvolution):
    """``QuantConvolution`` of sequences (N, in, L) or (in, L)."""

    float_types = ("torch.nn.Conv1d",)
    convolve = staticmethod(F.conv1d)
    features = -2


class QuantConv2d(QuantConvolution):
    """``QuantConvolution`` of images (N, in, H, W) or (in, H, W)."""

    float_types: ClassVar[tuple[str, ...]] = ("torch.nn.Conv2d",)
    convolve = staticmethod(F.conv2d)
    features = -3


class QuantConv3d(QuantConvolution):
    """``QuantConvolution`` of volumes (N, in, D, H, W) or (in, D, H, W)."""

    float_types = ("torch.nn.Conv3d",)
    convolve = staticmethod(F.conv3d)
    features = -4


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
