"""Compiled layers: what torch's compiler makes of a layer whose weights do not change."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import torch
from torch import Tensor, nn

from qbench_suite import LayerError

#: The CPU kernel of torch for packed int8 weights reads past rows that are no multiple of this.
_PACK = 16


class CompiledLinear(nn.Module):
    """A layer compiled by torch for each number of rows it meets, its weights frozen."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self._call = torch.compile(layer, dynamic=False, options={"freezing": True})

    def kernel(self, _: int) -> str:
        """``compiled``, for any number of rows."""
        return "compiled"

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._call(x)
        return y


def compiled(build: Callable[[nn.Linear], nn.Module], linear: nn.Linear) -> nn.Module:
    """What ``build`` makes of ``linear``, compiled at its first call."""
    return CompiledLinear(build(linear).eval().requires_grad_(False))


def uncompilable(device: torch.device) -> str:
    """Why torch cannot compile for ``device``; empty where it can."""
    if os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        return "torch does not compile: TORCHDYNAMO_DISABLE is set"
    compilers = (os.environ.get("CXX"), "g++", "clang++")
    if device.type == "cpu" and not any(name and shutil.which(name) for name in compilers):
        return "torch compiles for the CPU with a C++ compiler, and none is found; install g++"
    return ""


def require_whole_packs(linear: nn.Linear, name: str) -> None:
    """Raise ``LayerError`` for weights on which torch's kernel for packed int8 ends the process.

    https://github.com/pytorch/pytorch/issues/136709 and its kin.
    """
    if linear.weight.device.type == "cpu" and linear.in_features % _PACK:
        raise LayerError(
            f"{name} calls a kernel of torch that takes multiples of {_PACK} input features; got "
            f"{linear.in_features}, for which that kernel may end the process. Measure another size."
        )
