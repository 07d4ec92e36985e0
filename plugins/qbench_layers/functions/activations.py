"""Activation functions that a model calls, rather than holds as modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from qbench_layers.activations import restore_masked
from qbench_layers.functions.base import FunctionCall
from qbench_layers.functions.call import Call
from qbench_layers.functions.weights import KeepsWeights
from qbench_suite import Axes, Role


class ActivationFunction(FunctionCall):
    """``Q(f(Q(x)))`` with the call's own settings, never in place.

    Roles: ``input`` and ``act``, both of any shape; features on ``feature_axis``, by default axis 1
    of rank 4 and the last of every other rank. NaN stays NaN.
    """

    roles: ClassVar[tuple[Role, ...]] = (Role.INPUT, Role.ACT)
    optional_roles = ()
    result = Role.ACT


class ReLUFunction(ActivationFunction):
    """``max(x, 0)``."""

    kind = "relu"
    functions = (
        "torch.relu",
        "torch.relu_",
        "torch.nn.functional.relu",
        "torch.nn.functional.relu_",
        "torch.Tensor.relu",
        "torch.Tensor.relu_",
    )
    parameters = ("input", "inplace")


class ReLU6Function(ActivationFunction):
    """``min(max(x, 0), 6)``."""

    kind = "relu6"
    functions = ("torch.nn.functional.relu6",)
    parameters = ("input", "inplace")


class HardtanhFunction(ActivationFunction):
    """``min(max(x, low), high)``."""

    kind = "hardtanh"
    functions = ("torch.nn.functional.hardtanh", "torch.nn.functional.hardtanh_")
    parameters = ("input", "min_val", "max_val", "inplace")


class LeakyReLUFunction(ActivationFunction):
    """``max(x, 0) + slope · min(x, 0)``."""

    kind = "leaky_relu"
    functions = ("torch.nn.functional.leaky_relu", "torch.nn.functional.leaky_relu_")
    parameters = ("input", "negative_slope", "inplace")


class PReLUFunction(KeepsWeights, ActivationFunction):
    """``max(x, 0) + Q(slope) · min(x, 0)``; the slopes are a ``weight``, quantized once."""

    kind = "prelu"
    functions = ("torch.prelu", "torch.nn.functional.prelu", "torch.Tensor.prelu")
    roles = (Role.WEIGHT, Role.INPUT, Role.ACT)
    parameters = ("input", "weight")
    operands = ("input", "weight")

    def operand(self, name: str, x: Tensor, call: Call) -> Tensor:
        """The input, or the slopes."""
        return self.keep_weight(name, x) if name == "weight" else super().operand(name, x, call)


class ELUFunction(ActivationFunction):
    """``max(x, 0) + min(α · (exp(x) − 1), 0)``."""

    kind = "elu"
    functions = ("torch.nn.functional.elu", "torch.nn.functional.elu_")
    parameters = ("input", "alpha", "inplace")


class SELUFunction(ActivationFunction):
    """``scale · (max(x, 0) + min(α · (exp(x) − 1), 0))``."""

    kind = "selu"
    functions = (
        "torch.selu",
        "torch.selu_",
        "torch.nn.functional.selu",
        "torch.nn.functional.selu_",
    )
    parameters = ("input", "inplace")


class CELUFunction(ActivationFunction):
    """``max(x, 0) + min(α · (exp(x / α) − 1), 0)``."""

    kind = "celu"
    functions = (
        "torch.celu",
        "torch.celu_",
        "torch.nn.functional.celu",
        "torch.nn.functional.celu_",
    )
    parameters = ("input", "alpha", "inplace")


class GELUFunction(ActivationFunction):
    """``x · Φ(x)``, or its approximation by tanh."""

    kind = "gelu"
    functions = ("torch.nn.functional.gelu",)
    parameters = ("input",)


class SiLUFunction(ActivationFunction):
    """``x · sigmoid(x)``, also known as swish."""

    kind = "silu"
    functions = ("torch.nn.functional.silu",)
    parameters = ("input", "inplace")


class MishFunction(ActivationFunction):
    """``x · tanh(softplus(x))``."""

    kind = "mish"
    functions = ("torch.nn.functional.mish",)
    parameters = ("input", "inplace")


class SoftplusFunction(ActivationFunction):
    """``log(1 + exp(β · x)) / β``."""

    kind = "softplus"
    functions = ("torch.nn.functional.softplus",)


class SigmoidFunction(ActivationFunction):
    """``1 / (1 + exp(−x))``."""

    kind = "sigmoid"
    functions = (
        "torch.sigmoid",
        "torch.sigmoid_",
        "torch.special.expit",
        "torch.nn.functional.sigmoid",
        "torch.Tensor.sigmoid",
        "torch.Tensor.sigmoid_",
    )


class TanhFunction(ActivationFunction):
    """``tanh(x)``."""

    kind = "tanh"
    functions = (
        "torch.tanh",
        "torch.tanh_",
        "torch.nn.functional.tanh",
        "torch.Tensor.tanh",
        "torch.Tensor.tanh_",
    )


class HardswishFunction(ActivationFunction):
    """``x · min(max(x + 3, 0), 6) / 6``."""

    kind = "hardswish"
    functions = ("torch.nn.functional.hardswish",)
    parameters = ("input", "inplace")


class HardsigmoidFunction(ActivationFunction):
    """``min(max(x + 3, 0), 6) / 6``."""

    kind = "hardsigmoid"
    functions = ("torch.nn.functional.hardsigmoid",)
    parameters = ("input", "inplace")


class GLUFunction(ActivationFunction):
    """``a · sigmoid(b)``, a and b the halves of x along ``dim``, on which the features lie."""

    kind = "glu"
    functions = ("torch.nn.functional.glu",)
    parameters = ("input", "dim")

    def axes(self, x: Tensor, call: Call) -> Axes:
        """Features on the axis that is halved."""
        return Axes.of_shape(tuple(x.shape), call.get("dim", -1))


class SoftmaxFunction(ActivationFunction):
    """``exp(x) / Σ exp(x)`` along ``dim``, on which the features of input and result lie too.

    −Inf, which masks an element, stays −Inf. Left alone: calls that leave the axis to the rank of
    the input (``dim=None``).
    """

    kind = "softmax"
    functions = (
        "torch.softmax",
        "torch.special.softmax",
        "torch.nn.functional.softmax",
        "torch.Tensor.softmax",
    )
    parameters = ("input", "dim", "dtype")

    @classmethod
    def parameters_of(cls, function: Callable[..., Any]) -> tuple[str, ...]:
        """torch.nn.functional has one more of them."""
        return ("input", "dim", "_stacklevel", "dtype") if function is F.softmax else cls.parameters

    @classmethod
    def reason(cls, call: Call) -> str:
        """Why a softmax has no axis to be quantized along."""
        return "" if isinstance(call.get("dim"), int) else "it names no axis, dim=None"

    def operand(self, name: str, x: Tensor, call: Call) -> Tensor:
        """The scores, masked where they were."""
        return restore_masked(x, super().operand(name, x, call))

    def axes(self, x: Tensor, call: Call) -> Axes:
        """Features on the axis summed over."""
        return Axes.of_shape(tuple(x.shape), call.get("dim"))


ACTIVATIONS: tuple[type[ActivationFunction], ...] = (
    ReLUFunction,
    ReLU6Function,
    HardtanhFunction,
    LeakyReLUFunction,
    PReLUFunction,
    ELUFunction,
    SELUFunction,
    CELUFunction,
    GELUFunction,
    SiLUFunction,
    MishFunction,
    SoftplusFunction,
    SigmoidFunction,
    TanhFunction,
    HardswishFunction,
    HardsigmoidFunction,
    GLUFunction,
    SoftmaxFunction,
)
