"""From a function of another library to the kernels of a norm and of its backward."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from qbench_suite import NORM_OPERATIONS, NormKernel, NormOperation

#: Tensors and numbers of an operation by name; its outputs in order; a call that gives them.
Inputs = Mapping[str, Any]
Outputs = tuple[Tensor, ...]
Thunk = Callable[[], Outputs]

#: Largest errors in ulps of kernels that are compared with, not judged: what torch was seen to be off
#: by on a CPU, and some. It rounds weight + 1, the normalized value and alpha · x to 16 bits on the
#: way; sums gradients of 16 bits in 16 bits; and loses digits of the mean of channels-last images.
TOLERANCE = {
    "forward": {"float32": 256.0, "float16": 8.0, "bfloat16": 8.0},
    "backward": {"float32": 512.0, "float16": 128.0, "bfloat16": 128.0},
}
#: Whether there is a device for the libraries that need one.
HAS_CUDA = torch.cuda.is_available()


def installed(module: str) -> bool:
    """Whether a top-level module can be imported."""
    return importlib.util.find_spec(module) is not None


def needing(module: str, install: str) -> Callable[[torch.device], str]:
    """Why kernels of ``module``, which run on CUDA devices, cannot run on one; ``install``: its remedy."""

    def unavailable(device: torch.device) -> str:
        if not installed(module):
            return f"{module} is not installed; {install}"
        if device.type != "cuda":
            return f"it runs on a CUDA device, not on {device.type}"
        return ""

    return unavailable


def entries(
    name: str,
    run: Callable[[Inputs], Outputs],
    *,
    provider: str,
    unavailable: Callable[[torch.device], str],
    default: bool,
    description: str,
    affine: tuple[Any, ...] = (),
    misfit: Callable[[NormOperation, tuple[int, ...], str], str] = lambda *_: "",
) -> tuple[NormKernel, ...]:
    """The kernel that ``run`` is of the operation ``name``, and that of its backward by autograd."""
    forward, backward = NORM_OPERATIONS[name], NORM_OPERATIONS[f"{name}_backward"]

    def prepare(inputs: Inputs) -> Thunk:
        return lambda: run(inputs)

    def prepare_backward(inputs: Inputs) -> Thunk:
        assert backward.gradients_of is not None
        return backward.gradients_of(inputs, run)

    return tuple(
        NormKernel(
            provider=provider,
            operation=operation,
            prepare=prepared,
            affine=affine,
            unavailable=unavailable,
            misfit=functools.partial(misfit, operation),
            tolerance_ulps=TOLERANCE[operation.direction],
            description=description,
            default=default,
        )
        for operation, prepared in ((forward, prepare), (backward, prepare_backward))
    )
