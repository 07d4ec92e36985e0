"""GroupNorm and BatchNorm of images, in both memory orders, and their backwards."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qbench_suite.norms.operation import (
    Affine,
    Inputs,
    NormOperation,
    NormProblem,
    Outputs,
    backward_of,
)

_SHAPES = ("1x256x224x224",)
_LARGE = ("8x256x224x224", "32x256x56x56")
_AFFINE: tuple[Affine, ...] = ("weight_bias", "weight", "none")
#: Groups of GroupNorm, where the channels are a multiple of it; else their greatest common divisor.
_GROUPS = 32
_GRADIENTS = {"dx": "x", "dweight": "weight", "dbias": "bias"}


def _affine_of_channels(problem: NormProblem) -> dict[str, Any]:
    drawn = problem.sampler().affine(problem.affine, problem.shape[1])
    return {"weight": drawn["weight"], "bias": drawn["bias"]}


def _images(problem: NormProblem) -> dict[str, Any]:
    x = dataclasses.replace(problem, seed=problem.seed + 3).sampler().normal(*problem.shape)
    return {"x": x, **_affine_of_channels(problem)}


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (x.dim() - 2))


def _affine(y: Tensor, inputs: Inputs) -> Tensor:
    for name, combine in (("weight", torch.mul), ("bias", torch.add)):
        if inputs[name] is not None:
            y = combine(y, _by_channel(inputs[name], y))
    return y


def _group_inputs(problem: NormProblem) -> dict[str, Any]:
    groups = math.gcd(problem.shape[1], _GROUPS)
    return {**_images(problem), "groups": groups, "eps": 1e-5}


def _group_reference(inputs: Inputs) -> Outputs:
    x = inputs["x"]
    rows = x.reshape(x.shape[0], inputs["groups"], -1)
    centred = rows - rows.mean(-1, keepdim=True)
    y = centred / (centred.square().mean(-1, keepdim=True) + inputs["eps"]).sqrt()
    return (_affine(y.reshape(x.shape), inputs),)


def _group_eager(inputs: Inputs) -> Outputs:
    given = (inputs["groups"], inputs["weight"], inputs["bias"], inputs["eps"])
    return (F.group_norm(inputs["x"], *given),)


GROUP_NORM = NormOperation(
    name="group_norm",
    outputs=("y",),
    inputs=_group_inputs,
    reference=_group_reference,
    eager=lambda inputs: lambda: _group_eager(inputs),
    shapes=_SHAPES,
    large_shapes=_LARGE,
    rank=4,
    affine=_AFFINE,
    layout="nchw",
    description="LayerNorm of each group of channels of an image, weight and bias a channel",
)


def _batch_inputs(problem: NormProblem) -> dict[str, Any]:
    channels = problem.shape[1]
    draw = dataclasses.replace(problem, dtype=torch.float32, seed=problem.seed + 5).sampler()
    running = {
        "running_mean": draw.normal(channels, std=0.5),
        "running_var": draw.normal(channels).square_().add_(0.5),
    }
    # Torch wants weight and bias in the dtype of the statistics.
    affine = _affine_of_channels(dataclasses.replace(problem, dtype=torch.float32))
    return {**_images(problem), **affine, **running, "eps": 1e-5}


def _batch_training_inputs(problem: NormProblem) -> dict[str, Any]:
    return {**_batch_inputs(problem), "momentum": 0.1}


def _batch_statistics(x: Tensor) -> tuple[Tensor, Tensor, int]:
    axes = [0, *range(2, x.dim())]
    mean = x.mean(axes)
    var = (x - _by_channel(mean, x)).square().mean(axes)
    return mean, var, x.numel() // x.shape[1]


def _batch_normalized(inputs: Inputs, mean: Tensor, var: Tensor) -> Tensor:
    x = inputs["x"]
    y = (x - _by_channel(mean, x)) / (_by_channel(var, x) + inputs["eps"]).sqrt()
    return _affine(y, inputs)


def _batch_training_reference(inputs: Inputs) -> Outputs:
    mean, var, count = _batch_statistics(inputs["x"])
    unbiased = var * (count / max(count - 1, 1))
    momentum = inputs["momentum"]
    return (
        _batch_normalized(inputs, mean, var),
        torch.lerp(inputs["running_mean"], mean.detach(), momentum),
        torch.lerp(inputs["running_var"], unbiased.detach(), momentum),
    )


def _batch_inference_reference(inputs: Inputs) -> Outputs:
    return (_batch_normalized(inputs, inputs["running_mean"], inputs["running_var"]),)


def _batch_call(inputs: Inputs, mean: Tensor, var: Tensor, momentum: float | None) -> Tensor:
    x, weight, bias = inputs["x"], inputs["weight"], inputs["bias"]
    training = momentum is not None
    return F.batch_norm(x, mean, var, weight, bias, training, momentum or 0.0, inputs["eps"])


def _batch_training_eager(inputs: Inputs) -> Callable[[], Outputs]:
    # Torch updates statistics in place; the inputs stay as they are for whoever runs next.
    mean, var = inputs["running_mean"].clone(), inputs["running_var"].clone()
    return lambda: (_batch_call(inputs, mean, var, inputs["momentum"]), mean, var)


def _batch_inference_eager(inputs: Inputs) -> Callable[[], Outputs]:
    mean, var = inputs["running_mean"], inputs["running_var"]
    return lambda: (_batch_call(inputs, mean, var, None),)


BATCH_NORM = NormOperation(
    name="batch_norm",
    outputs=("y", "running_mean", "running_var"),
    inputs=_batch_training_inputs,
    reference=_batch_training_reference,
    eager=_batch_training_eager,
    shapes=_SHAPES,
    large_shapes=_LARGE,
    rank=4,
    affine=_AFFINE,
    layout="nchw",
    description="training: each channel by its mean and variance over the batch; running statistics",
)
BATCH_NORM_INFERENCE = NormOperation(
    name="batch_norm_inference",
    outputs=("y",),
    inputs=_batch_inputs,
    reference=_batch_inference_reference,
    eager=_batch_inference_eager,
    shapes=_SHAPES,
    large_shapes=_LARGE,
    rank=4,
    affine=_AFFINE,
    layout="nchw",
    description="inference: each channel by its running mean and variance",
)


def channels_last(operation: NormOperation) -> NormOperation:
    """``operation`` on images whose channels are contiguous: shape (N, C, H, W), strides of NHWC."""

    def inputs(problem: NormProblem) -> dict[str, Any]:
        drawn = operation.inputs(problem)
        images = {
            name: value.to(memory_format=torch.channels_last)
            for name, value in drawn.items()
            if isinstance(value, Tensor) and value.dim() == operation.rank
        }
        return {**drawn, **images}

    stem, _, backward = operation.name.partition("_backward")
    return dataclasses.replace(
        operation,
        name=f"{stem}_nhwc{'_backward' if operation.direction == 'backward' else ''}{backward}",
        inputs=inputs,
        layout="nhwc",
        description=f"{operation.description}; channels last",
    )


GROUP_NORM_BACKWARD = backward_of(GROUP_NORM, gradients=_GRADIENTS, unread=("bias",))
BATCH_NORM_BACKWARD = backward_of(
    BATCH_NORM, gradients=_GRADIENTS, unread=("bias", "running_mean", "running_var")
)
_NCHW = (
    GROUP_NORM,
    GROUP_NORM_BACKWARD,
    BATCH_NORM,
    BATCH_NORM_INFERENCE,
    BATCH_NORM_BACKWARD,
)
OPERATIONS = (*_NCHW, *map(channels_last, _NCHW))
