"""Quantized sums and products of features: residual additions, gates, layer scales."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qbench_layers.functions.base import FunctionCall
from qbench_layers.functions.call import Call
from qbench_layers.functions.weights import KeepsWeights, is_parameter
from qbench_suite import Axes, Role


class _Elementwise(FunctionCall):
    """A function of two tensors that broadcast: features lie on the same axis of both.

    That axis is counted from the last, so that an operand of lower rank finds it; an operand that
    lacks it has features on its last axis.
    """

    parameters = ("input", "other")
    operands = ("input", "other")

    def axes(self, x: Tensor, call: Call) -> Axes:
        """Features on the axis that the operand of higher rank has them on."""
        rank = max(call.get(name).dim() for name in self.operands)
        axis = self.feature_axis
        if axis is None:
            axis = 1 if rank == 4 else -1
        from_last = axis % rank - rank
        return Axes.of_shape(tuple(x.shape), from_last if -from_last <= x.dim() else -1)


class AddFunction(_Elementwise):
    """``Q(a) + α · Q(b)`` of two feature tensors, such as a residual and its branch.

    Role: ``input``, features on ``feature_axis``, by default axis 1 of rank 4 and the last of every
    other rank; ``output`` only where a quantizer for it is given. Left alone: sums with a number,
    with a single element, with a vector (a bias, which stays float as those of layers do), and with
    a tensor that holds −Inf, as masks do: an infinity would saturate and mask nothing.
    """

    kind = "add"
    functions = (
        "torch.add",
        "torch.Tensor.add",
        "torch.Tensor.add_",
        "torch.Tensor.__add__",
        "torch.Tensor.__radd__",
        "torch.Tensor.__iadd__",
    )

    @classmethod
    def reason(cls, call: Call) -> str:
        """Why a sum is no sum of features."""
        tensors = [call.get(name) for name in cls.operands]
        if why := _why_no_features(tensors):
            return why
        if any(bool(torch.isneginf(tensor).any()) for tensor in tensors):
            return "one operand holds -Inf, as masks do"
        return ""


class MulFunction(KeepsWeights, _Elementwise):
    """``Q(a) · Q(b)`` of features and a gate, or of features and a layer scale.

    Roles: ``input``, features on ``feature_axis``, by default axis 1 of rank 4 and the last of every
    other rank; ``weight`` for an operand that is a parameter or a view of one, quantized once, as a
    vector where only one of its axes is longer than 1; ``output`` only where a quantizer for it is
    given. Left alone: products with a number, a single element, or a vector that is no parameter.
    """

    kind = "mul"
    functions = (
        "torch.mul",
        "torch.multiply",
        "torch.Tensor.mul",
        "torch.Tensor.mul_",
        "torch.Tensor.multiply",
        "torch.Tensor.__mul__",
        "torch.Tensor.__rmul__",
        "torch.Tensor.__imul__",
    )
    roles = (Role.WEIGHT, Role.INPUT)

    @classmethod
    def reason(cls, call: Call) -> str:
        """Why a product is none of features and a gate or a scale."""
        tensors = [call.get(name) for name in cls.operands]
        parameters = [is_parameter(tensor) for tensor in tensors]
        if all(parameters):
            return "it multiplies parameters"
        return _why_no_features(
            [tensor for tensor, scale in zip(tensors, parameters, strict=True) if not scale],
            [tensor for tensor, scale in zip(tensors, parameters, strict=True) if scale],
        )

    def operand(self, name: str, x: Tensor, call: Call) -> Tensor:
        """The operand, as a weight where it is a parameter."""
        if is_parameter(x):
            return self.keep_weight("weight", x, self.axes(x, call))
        return super().operand(name, x, call)

    def quantize_weight(
        self, name: str, weight: Tensor, axes: Axes | None = None, *, role: Role = Role.WEIGHT
    ) -> Tensor:
        """As the base class does; a vector in the view (features,)."""
        if sum(size > 1 for size in weight.shape) > 1:
            return super().quantize_weight(name, weight, axes, role=role)
        flat = super().quantize_weight(name, weight.reshape(-1), Axes.weight(1), role=role)
        return flat.view(weight.shape)


def _why_no_features(tensors: list[Any], scales: list[Any] | None = None) -> str:
    if any(tensor.numel() == 1 for tensor in (*tensors, *(scales or ()))):
        return "one operand is a single number"
    if any(tensor.dim() < 2 for tensor in tensors):
        return "one operand is a vector"
    return ""
