"""Quantized pools: what they read is quantized, what they compute is float."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from qbench_layers.base import QuantLayer, function_of
from qbench_suite import Role


class QuantPool2d(QuantLayer):
    """``y = pool(Q(x))`` with the float twin's own settings.

    Role: ``input`` (N, C, H, W) or (C, H, W), features on C. Where the twin gives a tuple
    (``return_indices``), so does the layer. Raises ``LayerError`` for a module of another type.
    """

    roles = (Role.INPUT,)
    features = -3

    def take(self, module: Any) -> None:
        """The pool itself, with all its settings."""
        self.pool = function_of(module)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H', W')."""
        return self.pool(self.quantize(Role.INPUT, "input", x))


class QuantMaxPool2d(QuantPool2d):
    """The maximum of Q(x) in each window: a value of the grid again."""

    float_types = ("torch.nn.MaxPool2d", "timm.layers.pool2d_same.MaxPool2dSame")


class QuantAvgPool2d(QuantPool2d):
    """The mean of Q(x) in each window, float."""

    float_types = ("torch.nn.AvgPool2d", "timm.layers.pool2d_same.AvgPool2dSame")


class QuantAdaptiveAvgPool2d(QuantPool2d):
    """The mean of Q(x) in each of ``output_size`` windows, float."""

    float_types = ("torch.nn.AdaptiveAvgPool2d",)


class QuantSelectAdaptivePool2d(QuantPool2d):
    """timm's global pool: average, maximum, their mean or both, of Q(x).

    Features are on axis 1, or the last of pools with ``input_fmt="NHWC"``. A pool that passes its
    input through (``pool_type=""``) reads nothing, so that nothing is quantized.
    """

    float_types = ("timm.layers.adaptive_avgmax_pool.SelectAdaptivePool2d",)

    def take(self, module: Any) -> None:
        """The pool itself, and where it has its channels."""
        super().take(module)
        if module.is_identity():
            self.quantizers.clear()
        pool = module.pool
        spatial = getattr(pool, "dim", getattr(pool, "dim_reduce", (2, 3)))
        if 1 in spatial and self.feature_axis == self.features:
            self.feature_axis = -1
