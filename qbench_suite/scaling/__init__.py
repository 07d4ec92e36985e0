"""Scaling: how scales are laid over tensors, and the fused kernel that applies them."""

from qbench_suite.scaling.axes import Axes
from qbench_suite.scaling.granularity import (
    Granularity,
    PerBlock,
    PerChannel,
    PerChunk,
    PerTensor,
    PerToken,
)
from qbench_suite.scaling.mode import Mode
from qbench_suite.scaling.quantized import FakeQuantized, QuantizedTensor
from qbench_suite.scaling.quantizer import Quantizer
from qbench_suite.scaling.rules import AbsMax, PowerOfTwo, ScaleRule, TwoLevel

__all__ = [
    "AbsMax",
    "Axes",
    "FakeQuantized",
    "Granularity",
    "Mode",
    "PerBlock",
    "PerChannel",
    "PerChunk",
    "PerTensor",
    "PerToken",
    "PowerOfTwo",
    "QuantizedTensor",
    "Quantizer",
    "ScaleRule",
    "TwoLevel",
]
