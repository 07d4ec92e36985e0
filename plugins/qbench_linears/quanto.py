"""Int8 weight-only layers of optimum-quanto."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from qbench_linears.compiled import require_whole_packs


class QuantoLinear(nn.Module):
    """A linear layer as ``quantize`` and ``freeze`` leave it: a scale an output, max|w| / 127."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        library: Any = importlib.import_module("optimum.quanto")
        layers = nn.Sequential(copy.deepcopy(linear))
        library.quantize(layers, weights=library.qint8)
        library.freeze(layers)
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
    """The layer that quanto makes of ``linear``; raises ``LayerError`` for those it crashes on."""
    require_whole_packs(linear, "quanto.int8")
    return QuantoLinear(linear)


def unavailable(_: torch.device) -> str:
    """Why there is no optimum-quanto; empty where there is."""
    # A namespace package: of optimum there may be other parts alone.
    spec = importlib.util.find_spec("optimum")
    absent = spec is None or importlib.util.find_spec("optimum.quanto") is None
    return "optimum-quanto is not installed; pip install optimum-quanto" if absent else ""
