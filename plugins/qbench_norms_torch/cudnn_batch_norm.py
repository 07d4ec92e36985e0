"""BatchNorm of cuDNN, as torch calls it: eager torch itself chooses between this and its own."""

from __future__ import annotations

import functools
from typing import Any

import torch

from qbench_norms_torch.entries import HAS_CUDA, TOLERANCE, Inputs, Outputs, Thunk
from qbench_suite import NORM_OPERATIONS, NormKernel, NormOperation


def unavailable(device: torch.device) -> str:
    """Why torch cannot call cuDNN; empty where it can."""
    cudnn: Any = torch.backends.cudnn
    if torch.version.cuda is None or not cudnn.is_available():
        return "this torch is built without cuDNN; install one for CUDA"
    return "" if device.type == "cuda" else f"it runs on a CUDA device, not on {device.type}"


def _forward(inputs: Inputs, *, training: bool) -> Thunk:
    # The running statistics are updated in place; the inputs stay as they are.
    mean, var = inputs["running_mean"].clone(), inputs["running_var"].clone()
    momentum = inputs["momentum"] if training else 0.0
    given = (inputs["x"], inputs["weight"], inputs["bias"], mean, var)
    call = torch.ops.aten.cudnn_batch_norm

    def run() -> Outputs:
        y = call(*given, training, momentum, inputs["eps"])[0]
        return (y, mean, var) if training else (y,)

    return run


def _backward(inputs: Inputs) -> Thunk:
    x, weight, eps = inputs["x"], inputs["weight"], inputs["eps"]
    mean, var = inputs["running_mean"].clone(), inputs["running_var"].clone()
    _, *saved, reserve = torch.ops.aten.cudnn_batch_norm(
        x, weight, inputs["bias"], mean, var, True, inputs["momentum"], eps
    )
    given = (x, inputs["dy"], weight, mean, var, *saved, eps, reserve)
    return lambda: tuple(torch.ops.aten.cudnn_batch_norm_backward(*given))


def _kernel(operation: NormOperation) -> NormKernel:
    if operation.direction == "backward":
        prepare = _backward
    else:
        training = "running_mean" in operation.outputs
        prepare = functools.partial(_forward, training=training)
    return NormKernel(
        provider="cudnn",
        operation=operation,
        prepare=prepare,
        affine=("weight_bias",),
        unavailable=unavailable,
        tolerance_ulps=TOLERANCE[operation.direction],
        description="cuDNN's, called by torch",
        default=HAS_CUDA,
    )


KERNELS = tuple(
    _kernel(operation)
    for name, operation in NORM_OPERATIONS.items()
    if name.startswith("batch_norm")
)
