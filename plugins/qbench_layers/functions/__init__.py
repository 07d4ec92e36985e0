"""The quantized function calls that ship with the suite, one class a kind."""

from __future__ import annotations

from qbench_layers.functions.activations import ACTIVATIONS
from qbench_layers.functions.arithmetic import AddFunction, MulFunction
from qbench_layers.functions.attention import AttentionFunction
from qbench_layers.functions.linear import ConvFunction, ConvTransposeFunction, LinearFunction
from qbench_layers.functions.matmul import MatmulFunction
from qbench_layers.functions.norms import (
    BatchNormFunction,
    GroupNormFunction,
    InstanceNormFunction,
    LayerNormFunction,
    RMSNormFunction,
)
from qbench_layers.functions.pools import (
    AdaptiveAvgPoolFunction,
    AdaptiveMaxPoolFunction,
    AvgPoolFunction,
    MaxPoolFunction,
    MeanFunction,
)
from qbench_suite import QuantFunction

FUNCTIONS: tuple[type[QuantFunction], ...] = (
    AddFunction,
    MulFunction,
    MatmulFunction,
    AttentionFunction,
    LinearFunction,
    ConvFunction,
    ConvTransposeFunction,
    *ACTIVATIONS,
    LayerNormFunction,
    RMSNormFunction,
    GroupNormFunction,
    InstanceNormFunction,
    BatchNormFunction,
    MaxPoolFunction,
    AvgPoolFunction,
    AdaptiveMaxPoolFunction,
    AdaptiveAvgPoolFunction,
    MeanFunction,
)
