"""Weight normalization, and the dynamic tanh that networks without normalization use instead."""

from __future__ import annotations

from typing import Any

import torch

from qbench_suite.norms.operation import (
    Inputs,
    NormOperation,
    NormProblem,
    Outputs,
    Sampler,
    backward_of,
)


def _weight_inputs(problem: NormProblem) -> dict[str, Any]:
    draw = problem.sampler()
    v = draw.normal(*problem.shape, std=0.02)
    return {"v": v, "g": draw.normal(problem.shape[0], mean=1.0, std=0.25)}


def _weight_reference(inputs: Inputs) -> Outputs:
    v, g = inputs["v"], inputs["g"]
    axes = list(range(1, v.dim()))
    norm = v.square().sum(axes, keepdim=True).sqrt()
    return (v * (g.reshape(-1, *[1] * len(axes)) / norm),)


def _weight_eager(inputs: Inputs) -> Outputs:
    v, g = inputs["v"], inputs["g"]
    return (torch._weight_norm(v, g.reshape(-1, *[1] * (v.dim() - 1)), 0),)


WEIGHT_NORM = NormOperation(
    name="weight_norm",
    outputs=("w",),
    inputs=_weight_inputs,
    reference=_weight_reference,
    eager=lambda inputs: lambda: _weight_eager(inputs),
    shapes=("768x768", "4096x4096"),
    large_shapes=("8192x28672",),
    affine=("none",),
    description="w = g · v / ‖v‖, a norm for each index of axis 0",
)


def _tanh_inputs(problem: NormProblem) -> dict[str, Any]:
    draw: Sampler = problem.sampler()
    x = draw.normal(*problem.shape)
    drawn = draw.affine(problem.affine, problem.shape[-1])
    alpha = torch.full((1,), 0.5, dtype=problem.dtype, device=problem.device)
    return {"x": x, "alpha": alpha, "weight": drawn["weight"], "bias": drawn["bias"]}


def _tanh(inputs: Inputs) -> Outputs:
    y = torch.tanh(inputs["alpha"] * inputs["x"])
    y = y if inputs["weight"] is None else y * inputs["weight"]
    return (y if inputs["bias"] is None else y + inputs["bias"],)


DYNAMIC_TANH = NormOperation(
    name="dynamic_tanh",
    outputs=("y",),
    inputs=_tanh_inputs,
    reference=_tanh,
    eager=lambda inputs: lambda: _tanh(inputs),
    shapes=("1024x768", "2048x4096"),
    large_shapes=("16384x4096",),
    affine=("weight_bias", "weight", "none"),
    description="y = tanh(alpha · x) · weight + bias, alpha a learned number: no statistics at all",
)
OPERATIONS = (
    WEIGHT_NORM,
    backward_of(WEIGHT_NORM, gradients={"dv": "v", "dg": "g"}),
    DYNAMIC_TANH,
    backward_of(
        DYNAMIC_TANH,
        gradients={"dx": "x", "dalpha": "alpha", "dweight": "weight", "dbias": "bias"},
        unread=("bias",),
    ),
)
