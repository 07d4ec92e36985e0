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
    """Compile for the shapes of ``inputs``; of a backward, its forward and the gradients of that."""
    graph = _compiled(operation.forward or operation, inputs)
    if operation.gradients_of is None:
        thunk: Thunk = functools.partial(graph, inputs)
    else:
        thunk = operation.gradients_of(inputs, graph)
    with _kept_buffers():
        thunk()  # what compiles
    return thunk


def _compiled(forward: NormOperation, inputs: Inputs) -> Callable[[Inputs], Outputs]:
    """``forward`` as one graph of the tensors it is given; all else is a constant of the graph."""
    names = [name for name, value in inputs.items() if isinstance(value, Tensor)]
    constants = {name: value for name, value in inputs.items() if name not in names}

    def run(*tensors: Tensor) -> Outputs:
        return forward.eager({**constants, **dict(zip(names, tensors, strict=True))})()

    # Torch gives up on a code object after eight variants: each graph has its own.
    code = run.__code__.replace(co_name=f"{forward.name.replace('.', '_')}_{next(_serial)}")
    own = types.FunctionType(code, run.__globals__, code.co_name, None, run.__closure__)
    graph: Any = torch.compile(own, fullgraph=True, dynamic=False)

    def call(given: Inputs) -> Outputs:
        outputs: Outputs = graph(*[given[name] for name in names])
        return outputs

    return call


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
