"""Quantized transposed convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from qbench_layers.base import QuantLayer
from qbench_layers.weight_layout import TransposedWeights
from qbench_suite import Role


class QuantTransposedConvolution(TransposedWeights, QuantLayer):
    """The transposed convolution of Q(x) with Q(W), plus b: W quantized once, b float.

    Roles: ``weight`` (in, out/groups, *kernel), quantized and recorded in the view of all that an output
    sums over, (out, kernel · in/groups); ``input`` (N, in, …) or (in, …), features on ``in``;
    ``output``, features on ``out``, only where a quantizer for it is given. Raises ``LayerError`` for
    a module of another type.
    """

    optional_roles = (Role.OUTPUT,)
    #: What convolves: torch's function of as many spatial axes.
    convolve: ClassVar[Callable[..., Tensor]]

    weight: Tensor
    bias: Tensor | None

    def take(self, module: Any) -> None:
        """Weight, bias and geometry of ``module``."""
        self.kernel_size: tuple[int, ...] = module.kernel_size
        self.stride: tuple[int, ...] = module.stride
        self.padding: tuple[int, ...] = module.padding
        self.output_padding: tuple[int, ...] = module.output_padding
        self.dilation: tuple[int, ...] = module.dilation
        self.groups = module.groups
        self.keep_weight("weight", module.weight)
        self.keep("bias", module.bias)

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """(N, in, …) → (N, out, …), of the spatial size ``output_size`` where that is given."""
        extra = self.output_padding if output_size is None else self._extra(x, output_size)
        x = self.quantize(Role.INPUT, "input", x)
        geometry = (self.stride, self.padding, extra, self.groups, self.dilation)
        y = type(self).convolve(x, self.weight, self.bias, *geometry)
        return self.quantize(Role.OUTPUT, "output", y)

    def _extra(self, x: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        """Elements to add at one side so that the result has the size asked for."""
        rank = len(self.kernel_size)
        sizes = (output_size[-rank:], x.shape[-rank:], self.stride, self.padding, self.dilation)
        return tuple(
            wanted - ((size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1)
            for wanted, size, stride, padding, dilation, kernel in zip(
                *sizes, self.kernel_size, strict=True
            )
        )


class QuantConvTranspose1d(QuantTransposedConvolution):
    """``QuantTransposedConvolution`` of sequences (N, in, L) or (in, L)."""

    float_types = ("torch.nn.ConvTranspose1d",)
    convolve = staticmethod(F.conv_transpose1d)
    features = -2


class QuantConvTranspose2d(QuantTransposedConvolution):
    """``QuantTransposedConvolution`` of images (N, in, H, W) or (in, H, W)."""

    float_types = ("torch.nn.ConvTranspose2d",)
    convolve = staticmethod(F.conv_transpose2d)
    features = -3


class QuantConvTranspose3d(QuantTransposedConvolution):
    """``QuantTransposedConvolution`` of volumes (N, in, D, H, W) or (in, D, H, W)."""

    float_types = ("torch.nn.ConvTranspose3d",)
    convolve = staticmethod(F.conv_transpose3d)
    features = -4
