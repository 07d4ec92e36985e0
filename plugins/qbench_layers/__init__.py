"""The quantized layers that ship with the suite."""

from __future__ import annotations

from collections.abc import Callable

from qbench_layers.activations import (
    QuantGELU,
    QuantHardsigmoid,
    QuantHardswish,
    QuantReLU,
    QuantReLU6,
    QuantSigmoid,
    QuantSiLU,
    QuantSoftmax,
    QuantTanh,
)
from qbench_layers.attention import QuantAttention
from qbench_layers.batch_norm import QuantBatchNorm2d
from qbench_layers.convolution import (
    QuantConv2d,
    QuantConv2dSame,
    QuantScaledStdConv2d,
    QuantStdConv2d,
)
from qbench_layers.layer_scale import QuantLayerScale, QuantLayerScale2d
from qbench_layers.linear import QuantLinear
from qbench_layers.norm_act import (
    QuantBatchNormAct2d,
    QuantGroupNormAct,
    QuantLayerNormAct,
    QuantLayerNormAct2d,
)
from qbench_layers.norms import QuantGroupNorm, QuantLayerNorm, QuantLayerNorm2d, QuantRMSNorm
from qbench_layers.pools import (
    QuantAdaptiveAvgPool2d,
    QuantAvgPool2d,
    QuantMaxPool2d,
    QuantSelectAdaptivePool2d,
)
from qbench_suite import QuantModule, hookimpl

LAYERS: tuple[type[QuantModule], ...] = (
    QuantConv2d,
    QuantConv2dSame,
    QuantStdConv2d,
    QuantScaledStdConv2d,
    QuantLinear,
    QuantBatchNorm2d,
    QuantLayerNorm,
    QuantLayerNorm2d,
    QuantGroupNorm,
    QuantRMSNorm,
    QuantBatchNormAct2d,
    QuantLayerNormAct,
    QuantLayerNormAct2d,
    QuantGroupNormAct,
    QuantMaxPool2d,
    QuantAvgPool2d,
    QuantAdaptiveAvgPool2d,
    QuantSelectAdaptivePool2d,
    QuantReLU,
    QuantReLU6,
    QuantGELU,
    QuantSiLU,
    QuantSigmoid,
    QuantTanh,
    QuantHardswish,
    QuantHardsigmoid,
    QuantSoftmax,
    QuantAttention,
    QuantLayerScale,
    QuantLayerScale2d,
)


@hookimpl
def qbench_register_layers(register: Callable[[type[QuantModule]], None]) -> None:
    """Register every layer of this module."""
    for layer in LAYERS:
        register(layer)
