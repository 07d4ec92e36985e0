"""The norms: which kernel takes a row, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qbench_suite import MetalSource

Inputs = Mapping[str, Any]
Thunk = Callable[[], tuple[Tensor, ...]]

_FOLDER = Path(__file__).parent / "csrc"
#: What an element of each dtype is called in Metal.
_TYPES = {torch.float32: "float", torch.float16: "half", torch.bfloat16: "bfloat"}
#: Elements of a row that a thread holds, longest row that is held, and threads for longer ones.
_READS, _HELD, _THREADS = 4, 4096, 1024
_SIMDGROUP = 32


def layer_norm(inputs: Inputs) -> Thunk:
    """Y of the inputs of ``layer_norm``: ``x`` (rows, N) of any row stride, elements side by side."""
    x, weight, bias = inputs["x"], inputs["weight"], inputs["bias"]
    given = (weight is not None) + 2 * (bias is not None)
    return _thunk("layer_norm", inputs, (_or(weight, x), _or(bias, x)), given)


def rms_norm(inputs: Inputs) -> Thunk:
    """Y of the inputs of ``rms_norm``: ``x`` (rows, N) of any row stride, elements side by side."""
    x, weight = inputs["x"], inputs["weight"]
    return _thunk("rms_norm", inputs, (_or(weight, x),), int(weight is not None))


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """What is not there is never read: any tensor stands for it."""
    return other if tensor is None else tensor


def _thunk(norm: str, inputs: Inputs, vectors: tuple[Tensor, ...], given: int) -> Thunk:
    x = inputs["x"]
    rows, width = x.shape
    held = width <= _HELD
    source = MetalSource(_FOLDER / f"{norm}.metal")
    kernel = f"{norm}_{'row' if held else 'looped'}"
    plan = source.function(kernel, ELEMENT=_TYPES[x.dtype], READS=_READS).plan(
        grid=(rows, 1, 1), threadgroup=(_threads(width), 1, 1), device=x.device
    )
    numbers = (x.stride(0), width, inputs["eps"], float(inputs["weight_offset"]), given)

    def run() -> tuple[Tensor, ...]:
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        plan(x, *vectors, y, *numbers)
        return (y,)

    return run


def _threads(width: int) -> int:
    """Whole simdgroups, by the length of a row alone: a row has the same bits in any batch."""
    if width > _HELD:
        return _THREADS
    return -(-width // (_READS * _SIMDGROUP)) * _SIMDGROUP
