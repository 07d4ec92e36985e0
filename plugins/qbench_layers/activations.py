"""Quantized activation functions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from qbench_layers.base import QuantLayer, function_of
from qbench_suite import LayerError, Role


def restore_masked(scores: Tensor, quantized: Tensor) -> Tensor:
    """``quantized`` with −Inf where ``scores`` has it: saturated, it would not mask any more."""
    if quantized is scores:
        return scores
    return quantized.masked_fill(scores == float("-inf"), float("-inf"))


class QuantActivation(QuantLayer):
    """``y = Q(f(Q(x)))`` with the float twin's own f and settings, never in place.

    Roles: ``input`` and ``act``, both of any shape; features on ``feature_axis``, by default axis 1
    of rank 4 and the last of every other rank. NaN stays NaN. Raises ``LayerError`` for a module of
    another type.
    """

    roles = (Role.INPUT, Role.ACT)

    def take(self, module: Any) -> None:
        """The function itself, with all its settings."""
        self.function = function_of(module)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same; the caller's tensor is left as it is."""
        y = self.function(self.quantize(Role.INPUT, "input", x))
        return self.quantize(Role.ACT, "act", y)


class QuantReLU(QuantActivation):
    """``max(x, 0)``."""

    float_types = ("torch.nn.ReLU",)


class QuantReLU6(QuantActivation):
    """``min(max(x, 0), 6)``."""

    float_types = ("torch.nn.ReLU6",)


class QuantLeakyReLU(QuantActivation):
    """``max(x, 0) + slope · min(x, 0)``."""

    float_types = ("torch.nn.LeakyReLU",)


class QuantELU(QuantActivation):
    """``max(x, 0) + min(α · (exp(x) − 1), 0)``."""

    float_types = ("torch.nn.ELU",)


class QuantSELU(QuantActivation):
    """``scale · (max(x, 0) + min(α · (exp(x) − 1), 0))``."""

    float_types = ("torch.nn.SELU",)


class QuantSoftplus(QuantActivation):
    """``log(1 + exp(β · x)) / β``."""

    float_types = ("torch.nn.Softplus",)


class QuantMish(QuantActivation):
    """``x · tanh(softplus(x))``."""

    float_types = (
        "torch.nn.Mish",
        "timm.layers.activations.Mish",
        "timm.layers.activations_me.MishMe",
    )


class QuantHardMish(QuantActivation):
    """``x / 2 · min(max(x + 2, 0), 2)``."""

    float_types = (
        "timm.layers.activations.HardMish",
        "timm.layers.activations_me.HardMishMe",
    )


class QuantGammaAct(QuantActivation):
    """An activation times a constant, which makes up for the variance that it takes away."""

    float_types = ("timm.models.nfnet.GammaAct",)


class QuantGELU(QuantActivation):
    """``x · Φ(x)``, or as the twin has it: approximated by tanh, or by ``x · sigmoid(1.702 x)``."""

    float_types = (
        "torch.nn.GELU",
        "timm.layers.activations.GELU",
        "timm.layers.activations.GELUTanh",
        "timm.layers.activations.QuickGELU",
    )


class QuantSiLU(QuantActivation):
    """``x · sigmoid(x)``, also known as swish."""

    float_types = (
        "torch.nn.SiLU",
        "timm.layers.activations.Swish",
        "timm.layers.activations_me.SwishMe",
    )


class QuantSigmoid(QuantActivation):
    """``1 / (1 + exp(−x))``."""

    float_types = ("torch.nn.Sigmoid", "timm.layers.activations.Sigmoid")


class QuantTanh(QuantActivation):
    """``tanh(x)``."""

    float_types = ("torch.nn.Tanh", "timm.layers.activations.Tanh")


class QuantHardswish(QuantActivation):
    """``x · min(max(x + 3, 0), 6) / 6``."""

    float_types = (
        "torch.nn.Hardswish",
        "timm.layers.activations.HardSwish",
        "timm.layers.activations_me.HardSwishMe",
    )


class QuantHardsigmoid(QuantActivation):
    """``min(max(x + 3, 0), 6) / 6``."""

    float_types = (
        "torch.nn.Hardsigmoid",
        "timm.layers.activations.HardSigmoid",
        "timm.layers.activations_me.HardSigmoidMe",
    )


class QuantSoftmax(QuantActivation):
    """``exp(x) / Σ exp(x)`` along the twin's ``dim``, which is the feature axis too.

    Raises ``LayerError`` for ``dim=None``, which leaves the axis to each input's rank.
    """

    float_types = ("torch.nn.Softmax",)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same; −Inf, which masks an element, stays −Inf."""
        y = self.function(restore_masked(x, self.quantize(Role.INPUT, "input", x)))
        return self.quantize(Role.ACT, "act", y)

    def take(self, module: Any) -> None:
        """The function, and its axis."""
        if module.dim is None:
            raise LayerError(
                "A quantized softmax knows the axis it sums over; got a Softmax with dim=None. "
                "Build it with an axis, for instance Softmax(dim=-1)."
            )
        super().take(module)
        if self.feature_axis is None:
            self.feature_axis = module.dim
