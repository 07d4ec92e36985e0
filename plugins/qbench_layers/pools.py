"""Quantized pools: what they read is quantized, what they compute is float."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from qbench_layers.base import QuantLayer, function_of
from qbench_suite import Role


class QuantPool(QuantLayer):
    """``y = pool(Q(x))`` with the float twin's own settings.

    Role: ``input`` (N, C, …) or (C, …), features on C. Where the twin gives a tuple
    (``return_indices``), so does the layer. Raises ``LayerError`` for a module of another type.
    """

    roles = (Role.INPUT,)

    def take(self, module: Any) -> None:
        """The pool itself, with all its settings."""
        self.pool = function_of(module)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) → (N, C, …), with fewer positions."""
        return self.pool(self.quantize(Role.INPUT, "input", x))


class QuantPool1d(QuantPool):
    """``QuantPool`` of sequences (N, C, L) or (C, L)."""

    features = -2


class QuantPool2d(QuantPool):
    """``QuantPool`` of images (N, C, H, W) or (C, H, W)."""

    features: ClassVar[int | None] = -3


class QuantMaxPool1d(QuantPool1d):
    """The maximum of Q(x) in each window: a value of the grid again."""

    float_types = ("torch.nn.MaxPool1d",)


class QuantAvgPool1d(QuantPool1d):
    """The mean of Q(x) in each window, float."""

    float_types = ("torch.nn.AvgPool1d",)


class QuantAdaptiveAvgPool1d(QuantPool1d):
    """The mean of Q(x) in each of ``output_size`` windows, float."""

    float_types = ("torch.nn.AdaptiveAvgPool1d",)


class QuantMaxPool2d(QuantPool2d):
    """The maximum of Q(x) in each window: a value of the grid again."""

    float_types = ("torch.nn.MaxPool2d", "timm.layers.pool2d_same.MaxPool2dSame")


class QuantAvgPool2d(QuantPool2d):
    """The mean of Q(x) in each window, float."""

    float_types = ("torch.nn.AvgPool2d", "timm.layers.pool2d_same.AvgPool2dSame")


class QuantAdaptiveAvgPool2d(QuantPool2d):
    """The mean of Q(x) in each of ``output_size`` windows, float."""

    float_types = ("torch.nn.AdaptiveAvgPool2d",)


class QuantAdaptiveMaxPool2d(QuantPool2d):
    """The maximum of Q(x) in each of ``output_size`` windows: a value of the grid again."""

    float_types = ("torch.nn.AdaptiveMaxPool2d",)


class QuantFastAdaptivePool(QuantPool2d):
    """timm's global pools of one kind, to 1 × 1: features on axis 1, or the last of NHWC images."""

    float_types = (
        "timm.layers.adaptive_avgmax_pool.FastAdaptiveAvgPool",
        "timm.layers.adaptive_avgmax_pool.FastAdaptiveMaxPool",
        "timm.layers.adaptive_avgmax_pool.FastAdaptiveAvgMaxPool",
        "timm.layers.adaptive_avgmax_pool.FastAdaptiveCatAvgMaxPool",
        "timm.layers.adaptive_avgmax_pool.AdaptiveAvgMaxPool2d",
        "timm.layers.adaptive_avgmax_pool.AdaptiveCatAvgMaxPool2d",
    )

    def take(self, module: Any) -> None:
        """The pool itself, and where it has its channels."""
        super().take(module)
        if self.feature_axis == self.features and _features_last(module):
            self.feature_axis = -1


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
        if self.feature_axis == self.features and _features_last(module.pool):
            self.feature_axis = -1


def _features_last(pool: Any) -> bool:
    """Whether timm's pool averages axis 1, and not the last."""
    return 1 in getattr(pool, "dim", getattr(pool, "dim_reduce", (2, 3)))
