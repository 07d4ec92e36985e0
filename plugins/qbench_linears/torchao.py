"""Int8 weight-only layers of torchao."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from qbench_linears.compiled import compiled, require_whole_packs


class TorchaoLinear(nn.Module):
    """A linear layer as ``quantize_`` leaves it: a scale an output, max|w| / 127.5, codes −128 … 127."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        quantization: Any = importlib.import_module("torchao.quantization")
        config = quantization.Int8WeightOnlyConfig(set_inductor_config=False)
        layers = nn.Sequential(copy.deepcopy(linear))
        quantization.quantize_(layers, config)
        self.linear = layers[0]

    def dequantize(self) -> Tensor:
        """The values that the codes stand for, (out, in)."""
        weight: Any = self.linear.weight
        values: Tensor = weight.dequantize()
        return values

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y


def build(linear: nn.Linear) -> nn.Module:
    """The layer that torchao makes of ``linear``, eager."""
    return TorchaoLinear(linear)


def build_compiled(linear: nn.Linear) -> nn.Module:
    """The same compiled; raises ``LayerError`` for input features that torch's kernel does not take."""
    require_whole_packs(linear, "torchao.int8wo.compiled")
    return compiled(build, linear)


def unavailable(_: torch.device) -> str:
    """Why there is no torchao; empty where there is."""
    absent = importlib.util.find_spec("torchao") is None
    return "torchao is not installed; pip install torchao" if absent else ""
