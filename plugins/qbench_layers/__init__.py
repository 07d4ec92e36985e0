"""The quantized layers and function calls that ship with the suite."""

from __future__ import annotations

from collections.abc import Callable

from qbench_layers.activations import (
    QuantELU,
    QuantGammaAct,
    QuantGELU,
    QuantHardMish,
    QuantHardsigmoid,
    QuantHardswish,
    QuantLeakyReLU,
    QuantMish,
    QuantReLU,
    QuantReLU6,
    QuantSELU,
    QuantSigmoid,
    QuantSiLU,
    QuantSoftmax,
    QuantSoftplus,
    QuantTanh,
)
from qbench_layers.attention import QuantAttention
from qbench_layers.batch_norm import QuantBatchNorm1d, QuantBatchNorm2d, QuantBatchNorm3d
from qbench_layers.convolution import (
    QuantConv1d,
    QuantConv2d,
    QuantConv2dSame,
    QuantConv3d,
    QuantScaledStdConv2d,
    QuantStdConv2d,
)
from qbench_layers.functions import FUNCTIONS
from qbench_layers.layer_scale import QuantLayerScale, QuantLayerScale2d
from qbench_layers.linear import QuantLinear
from qbench_layers.multihead_attention import QuantMultiheadAttention
from qbench_layers.norm_act import (
    QuantBatchNormAct2d,
    QuantGroupNormAct,
    QuantLayerNormAct,
    QuantLayerNormAct2d,
    QuantRMSNormAct,
)
from qbench_layers.norms import QuantGroupNorm, QuantLayerNorm, QuantLayerNorm2d, QuantRMSNorm
from qbench_layers.pools import (
    QuantAdaptiveAvgPool1d,
    QuantAdaptiveAvgPool2d,
    QuantAdaptiveMaxPool2d,
    QuantAvgPool1d,
    QuantAvgPool2d,
    QuantFastAdaptivePool,
    QuantMaxPool1d,
    QuantMaxPool2d,
    QuantSelectAdaptivePool2d,
)
from qbench_layers.recurrent import QuantGRU, QuantLSTM
from qbench_layers.reparametrized import (
    QuantAffine,
    QuantFrozenBatchNorm2d,
    QuantGlobalResponseNorm,
    QuantInstanceNorm2d,
    QuantPReLU,
    QuantRMSNorm2d,
    QuantRMSNormAct2d,
    QuantScale,
    QuantSimpleNorm,
    QuantSimpleNorm2d,
    QuantStarReLU,
)
from qbench_layers.transposed_convolution import (
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
)
from qbench_suite import QuantFunction, QuantModule, hookimpl

LAYERS: tuple[type[QuantModule], ...] = (
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConv2dSame,
    QuantStdConv2d,
    QuantScaledStdConv2d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
    QuantLinear,
    QuantLSTM,
    QuantGRU,
    QuantBatchNorm1d,
    QuantBatchNorm2d,
    QuantBatchNorm3d,
    QuantFrozenBatchNorm2d,
    QuantInstanceNorm2d,
    QuantLayerNorm,
    QuantLayerNorm2d,
    QuantGroupNorm,
    QuantRMSNorm,
    QuantRMSNorm2d,
    QuantSimpleNorm,
    QuantSimpleNorm2d,
    QuantGlobalResponseNorm,
    QuantBatchNormAct2d,
    QuantLayerNormAct,
    QuantLayerNormAct2d,
    QuantGroupNormAct,
    QuantRMSNormAct,
    QuantRMSNormAct2d,
    QuantMaxPool1d,
    QuantMaxPool2d,
    QuantAvgPool1d,
    QuantAvgPool2d,
    QuantAdaptiveAvgPool1d,
    QuantAdaptiveAvgPool2d,
    QuantAdaptiveMaxPool2d,
    QuantFastAdaptivePool,
    QuantSelectAdaptivePool2d,
    QuantReLU,
    QuantReLU6,
    QuantLeakyReLU,
    QuantPReLU,
    QuantELU,
    QuantSELU,
    QuantGELU,
    QuantSiLU,
    QuantMish,
    QuantHardMish,
    QuantSoftplus,
    QuantStarReLU,
    QuantGammaAct,
    QuantSigmoid,
    QuantTanh,
    QuantHardswish,
    QuantHardsigmoid,
    QuantSoftmax,
    QuantAttention,
    QuantMultiheadAttention,
    QuantLayerScale,
    QuantLayerScale2d,
    QuantScale,
    QuantAffine,
)


@hookimpl
def qbench_register_layers(register: Callable[[type[QuantModule]], None]) -> None:
    """Register every layer of this module."""
    for layer in LAYERS:
        register(layer)


@hookimpl
def qbench_register_functions(register: Callable[[type[QuantFunction]], None]) -> None:
    """Register every function call of ``qbench_layers.functions``."""
    for function in FUNCTIONS:
        register(function)
