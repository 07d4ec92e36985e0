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
from qbench_suite.scaling.groups import fold_groups
from qbench_suite.scaling.mode import Mode
from qbench_suite.scaling.quantized import FakeQuantized, QuantizedTensor, Scales
from qbench_suite.scaling.quantizer import Quantizer
from qbench_suite.scaling.ranges import Observer, Range, RangeRule
from qbench_suite.scaling.rules import AbsMax, PowerOfTwo, ScaleRule, TwoLevel

__all__ = [
    "AbsMax",
    "Axes",
    "FakeQuantized",
    "Granularity",
    "Mode",
    "Observer",
    "PerBlock",
    "PerChannel",
    "PerChunk",
    "PerTensor",
    "PerToken",
    "PowerOfTwo",
    "QuantizedTensor",
    "Quantizer",
    "Range",
    "RangeRule",
    "ScaleRule",
    "Scales",
    "TwoLevel",
    "fold_groups",
]
