"""LayerNorm whose scale and shift come from a condition: a vector an image, or one a token."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qbench_suite.norms.operation import (
    Inputs,
    NormOperation,
    NormProblem,
    Outputs,
    Thunk,
    backward_of,
)
from qbench_suite.norms.operations.rows import layer_normalized

_SHAPES = ("1x1920x3072", "4x256x1152")
_LARGE = ("4x1920x3072", "8x4096x1152")


def _condition(problem: NormProblem, parts: int, *, per_token: bool) -> list[Tensor]:
    """``parts`` strided views of one condition of 6 · N features, as ``condition.chunk(6)`` gives."""
    batch, tokens, width = problem.shape
    draw = dataclasses.replace(problem, seed=problem.seed + 11).sampler()
    lead = (batch, tokens) if per_token else (batch, 1)
    return list(draw.normal(*lead, 6 * width, std=0.5).chunk(6, dim=-1)[:parts])


def _inputs(problem: NormProblem, *, per_token: bool) -> dict[str, Any]:
    scale, shift = _condition(problem, 2, per_token=per_token)
    return {
        "x": problem.sampler().normal(*problem.shape),
        "scale": scale,
        "shift": shift,
        "eps": 1e-6,
    }


def _modulated(y: Tensor, inputs: Inputs) -> Tensor:
    modulated: Tensor = y * (1 + inputs["scale"]) + inputs["shift"]
    return modulated


def _reference(inputs: Inputs) -> Outputs:
    return (_modulated(layer_normalized(inputs["x"], inputs["eps"]), inputs),)


def _eager(inputs: Inputs) -> Outputs:
    x = inputs["x"]
    return (_modulated(F.layer_norm(x, x.shape[-1:], eps=inputs["eps"]), inputs),)


ADAPTIVE_LAYER_NORM = NormOperation(
    name="adaptive_layer_norm",
    outputs=("y",),
    inputs=lambda problem: _inputs(problem, per_token=False),
    reference=_reference,
    eager=lambda inputs: lambda: _eager(inputs),
    shapes=_SHAPES,
    large_shapes=_LARGE,
    rank=3,
    affine=("none",),
    # Torch rounds the normalized value before it is modulated; kernels round once.
    description="y = LayerNorm(x) · (1 + scale) + shift; x (B, T, N), scale and shift (B, 1, N)",
)
ADAPTIVE_LAYER_NORM_TOKEN = dataclasses.replace(
    ADAPTIVE_LAYER_NORM,
    name="adaptive_layer_norm_token",
    inputs=lambda problem: _inputs(problem, per_token=True),
    description="the same with scale and shift a token: (B, T, N)",
)


def _gated_inputs(problem: NormProblem) -> dict[str, Any]:
    scale, shift, gate = _condition(problem, 3, per_token=False)
    drawn = _inputs(problem, per_token=False)
    again = dataclasses.replace(problem, seed=problem.seed + 13).sampler()
    residual = again.normal(*problem.shape)
    return {**drawn, "scale": scale, "shift": shift, "gate": gate, "residual": residual} | {
        "dtype": problem.dtype
    }


def _gated_reference(inputs: Inputs) -> Outputs:
    total = (inputs["residual"] + inputs["gate"] * inputs["x"]).to(inputs["dtype"]).double()
    return (*_reference({**inputs, "x": total}), total)


def _gated_eager(inputs: Inputs) -> Thunk:
    def run() -> Outputs:
        total = torch.addcmul(inputs["residual"], inputs["gate"], inputs["x"])
        return (*_eager({**inputs, "x": total}), total)

    return run


GATED_ADAPTIVE_LAYER_NORM = NormOperation(
    name="gated_adaptive_layer_norm",
    outputs=("y", "total"),
    inputs=_gated_inputs,
    reference=_gated_reference,
    eager=_gated_eager,
    shapes=_SHAPES,
    large_shapes=_LARGE,
    rank=3,
    affine=("none",),
    fused=("residual", "gate"),
    description="total = residual + gate · x; y = LayerNorm(total) · (1 + scale) + shift",
)
_GRADIENTS = {"dx": "x", "dscale": "scale", "dshift": "shift"}
OPERATIONS = (
    ADAPTIVE_LAYER_NORM,
    backward_of(ADAPTIVE_LAYER_NORM, gradients=_GRADIENTS, unread=("shift",)),
    ADAPTIVE_LAYER_NORM_TOKEN,
    backward_of(ADAPTIVE_LAYER_NORM_TOKEN, gradients=_GRADIENTS, unread=("shift",)),
    GATED_ADAPTIVE_LAYER_NORM,
)
