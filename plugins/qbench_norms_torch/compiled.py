"""What torch's compiler makes of the eager operations."""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import shutil
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qbench_norms_torch.eager import tolerance
from qbench_norms_torch.entries import HAS_CUDA, Inputs, Outputs, Thunk, installed
from qbench_suite import NORM_OPERATIONS, NormKernel, NormOperation

_serial = itertools.count()


def prepare(operation: NormOperation, inputs: Inputs) -> Thunk:
    """Compile for what ``inputs`` are but their values, once; of a backward, its forward and gradients."""
    graph = _compiled(operation, inputs)
    if operation.gradients_of is None:
        thunk: Thunk = functools.partial(graph, inputs)
    else:
        thunk = operation.gradients_of(inputs, graph)
    with _kept_buffers():
        thunk()  # what compiles
    return thunk


def _compiled(operation: NormOperation, inputs: Inputs) -> Callable[[Inputs], Outputs]:
    """The forward of ``operation`` as one graph of the tensors given; all else is a constant of it."""
    names = tuple(name for name, value in inputs.items() if isinstance(value, Tensor))
    constants = tuple((name, value) for name, value in inputs.items() if name not in names)
    # What a graph is compiled for: other values of the same tensors take the same one.
    tensors = [inputs[name] for name in names]
    layouts = tuple((t.shape, t.stride(), t.dtype, t.device) for t in tensors)
    graph = _graph(operation, names, constants, layouts)

    def call(given: Inputs) -> Outputs:
        outputs: Outputs = graph(*[given[name] for name in names])
        return outputs

    return call


@functools.lru_cache(maxsize=64)
def _graph(
    operation: NormOperation,
    names: tuple[str, ...],
    constants: tuple[tuple[str, Any], ...],
    layouts: tuple[tuple[Any, ...], ...],  # noqa: ARG001 - tells graphs apart
) -> Any:
    """What is compiled at its first call, for tensors of ``layouts`` under ``names``."""
    forward = operation.forward or operation

    def run(*tensors: Tensor) -> Outputs:
        return forward.eager({**dict(constants), **dict(zip(names, tensors, strict=True))})()

    # Torch gives up on a code object after eight variants: each graph has its own.
    code = run.__code__.replace(co_name=f"{forward.name.replace('.', '_')}_{next(_serial)}")
    own = types.FunctionType(code, run.__globals__, code.co_name, None, run.__closure__)
    # Codes are of y as rounded to its dtype, which the compiler leaves out unless it is asked to round.
    options: Any = {"emulate_precision_casts": True} if operation.quantized else None
    return torch.compile(own, fullgraph=True, dynamic=False, options=options)


def _kept_buffers() -> Any:
    """What is compiled in here may be differentiated again and again: it reuses no saved tensor."""
    config: Any = importlib.import_module("torch._functorch.config")
    return config.patch(donated_buffer=False)


def uncompilable(device: torch.device) -> str:
    """Why torch cannot compile for ``device``; empty where it can."""
    if os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        return "torch does not compile: TORCHDYNAMO_DISABLE is set"
    compilers = (os.environ.get("CXX"), "g++", "clang++")
    if device.type == "cpu" and not any(name and shutil.which(name) for name in compilers):
        return "torch compiles for the CPU with a C++ compiler, and none is found; install g++"
    if device.type == "cuda" and not installed("triton"):
        return "torch compiles for CUDA devices with triton, which is not installed"
    return ""


def _tolerance(operation: NormOperation) -> dict[str, float]:
    wide = tolerance(operation)
    if operation.name.startswith("batch_norm") and operation.direction == "backward":
        # Torch compiles sums of products in the dtype of x, though they are float32: bfloat16's ulp.
        wide["float32"] = 2.0**16
    return wide


KERNELS = tuple(
    NormKernel(
        provider="torch.compile",
        operation=operation,
        prepare=functools.partial(prepare, operation),
        unavailable=uncompilable,
        tolerance_ulps=_tolerance(operation),
        description="torch's own, compiled for its shape",
        # On a CPU a graph takes longer to compile than all else about its case.
        default=HAS_CUDA,
    )
    for operation in NORM_OPERATIONS.values()
)
