"""Linear layers and convolutions that a model calls with weights of its own."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from qbench_layers.functions.base import FunctionCall
from qbench_layers.functions.call import Call
from qbench_layers.functions.weights import KeepsWeights
from qbench_layers.weight_layout import ConvolutionWeights, TransposedWeights
from qbench_suite import Axes, Role


class _Weighted(KeepsWeights, FunctionCall):
    """A function of an input and a weight; its bias stays float."""

    roles = (Role.WEIGHT, Role.INPUT)
    operands = ("input", "weight")

    def operand(self, name: str, x: Tensor, call: Call) -> Tensor:
        """The input, or the weight."""
        return self.keep_weight(name, x) if name == "weight" else super().operand(name, x, call)


class LinearFunction(_Weighted):
    """``y = Q(x) · Q(W)ᵀ + b``, W quantized once for as long as it stays the same tensor, b float.

    Roles: ``weight`` (out, in), channels ``out``, chunks along ``in``; ``input`` (…, in), features on
    the last axis; ``output`` (…, out) only where a quantizer for it is given.
    """

    kind = "linear"
    functions = ("torch.nn.functional.linear", "torch._C._nn.linear")
    parameters = ("input", "weight", "bias")

    def axes(self, x: Tensor, call: Call) -> Axes:
        """Features on the last axis."""
        return Axes.of_shape(tuple(x.shape), -1)


class ConvFunction(ConvolutionWeights, _Weighted):
    """``y = Q(x) ∗ Q(W) + b`` in one, two or three dimensions; W is quantized once, b float.

    Roles: ``weight`` (out, in/groups, …), quantized as that of a convolution layer is, in the view of
    all that an output sums over; ``input`` (N, in, …) or (in, …), features on ``in``; ``output``,
    features on ``out``, only where a quantizer for it is given.
    """

    kind = "conv"
    functions = (
        "torch.conv1d",
        "torch.conv2d",
        "torch.conv3d",
        "torch.nn.functional.conv1d",
        "torch.nn.functional.conv2d",
        "torch.nn.functional.conv3d",
    )
    parameters: ClassVar[tuple[str, ...]] = (
        "input",
        "weight",
        "bias",
        "stride",
        "padding",
        "dilation",
        "groups",
    )

    def axes(self, x: Tensor, call: Call) -> Axes:
        """Features before the spatial axes, of which the weight has as many."""
        return Axes.of_shape(tuple(x.shape), 1 - call.get("weight").dim())


class ConvTransposeFunction(TransposedWeights, ConvFunction):
    """The transposed convolution of Q(x) with Q(W), W (in, out/groups, …): as ``ConvFunction`` else."""

    kind = "conv_transpose"
    functions = (
        "torch.conv_transpose1d",
        "torch.conv_transpose2d",
        "torch.conv_transpose3d",
        "torch.nn.functional.conv_transpose1d",
        "torch.nn.functional.conv_transpose2d",
        "torch.nn.functional.conv_transpose3d",
    )
    parameters = (
        "input",
        "weight",
        "bias",
        "stride",
        "padding",
        "output_padding",
        "groups",
        "dilation",
    )

    def operand(self, name: str, x: Tensor, call: Call) -> Tensor:
        """As for every convolution; the groups tell how the weight is laid out."""
        self.groups = call.get("groups", 1)
        return super().operand(name, x, call)
