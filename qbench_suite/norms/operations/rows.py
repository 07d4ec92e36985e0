"""LayerNorm and RMSNorm of rows, with and without a residual sum in front, and their backwards."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qbench_suite.norms.operation import (
    Inputs,
    NormOperation,
    NormProblem,
    Outputs,
    backward_of,
)

_SHAPES = ("1024x768", "2048x4096")
_LARGE = ("16384x4096", "8192x8192", "131072x128", "1024x12288", "512x65536", "128x262144")
_RMS_AFFINE: Any = ("weight", "one_plus_weight", "none")


def layer_normalized(x: Tensor, eps: float) -> Tensor:
    """``(x − mean) / sqrt(var + eps)`` over the last axis, var with divisor N."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def rms_normalized(x: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x²) + eps)`` over the last axis."""
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def affine(y: Tensor, inputs: Inputs) -> Tensor:
    """``y · (weight + weight_offset) + bias``, where there is either."""
    weight = effective_weight(inputs)
    if weight is not None:
        y = y * weight
    bias = inputs.get("bias")
    return y if bias is None else y + bias


def effective_weight(inputs: Inputs) -> Tensor | None:
    """``weight + weight_offset``; None without a weight."""
    weight: Tensor | None = inputs["weight"]
    offset = inputs["weight_offset"]
    return weight if weight is None or not offset else weight + offset


def _layer_inputs(problem: NormProblem) -> dict[str, Any]:
    draw = problem.sampler()
    x = draw.normal(*problem.shape)
    return {"x": x, **draw.affine(problem.affine, problem.shape[-1]), "eps": 1e-5}


def _rms_inputs(problem: NormProblem) -> dict[str, Any]:
    draw = problem.sampler()
    x = draw.normal(*problem.shape)
    tensors = draw.affine(problem.affine or "weight", problem.shape[-1])
    return {"x": x, "weight": tensors["weight"], "weight_offset": tensors["weight_offset"]} | {
        "eps": 1e-6
    }


def _layer_reference(inputs: Inputs) -> Outputs:
    return (affine(layer_normalized(inputs["x"], inputs["eps"]), inputs),)


def _rms_reference(inputs: Inputs) -> Outputs:
    return (affine(rms_normalized(inputs["x"], inputs["eps"]), inputs),)


def _layer_eager(inputs: Inputs) -> Outputs:
    x = inputs["x"]
    weight = effective_weight(inputs)
    return (F.layer_norm(x, x.shape[-1:], weight, inputs["bias"], inputs["eps"]),)


def _rms_eager(inputs: Inputs) -> Outputs:
    x = inputs["x"]
    return (F.rms_norm(x, list(x.shape[-1:]), effective_weight(inputs), inputs["eps"]),)


LAYER_NORM = NormOperation(
    name="layer_norm",
    outputs=("y",),
    inputs=_layer_inputs,
    reference=_layer_reference,
    eager=lambda inputs: lambda: _layer_eager(inputs),
    shapes=_SHAPES,
    large_shapes=_LARGE,
    description="y = (x − mean(x)) / sqrt(var(x) + eps) · weight + bias over the last axis",
)
RMS_NORM = NormOperation(
    name="rms_norm",
    outputs=("y",),
    inputs=_rms_inputs,
    reference=_rms_reference,
    eager=lambda inputs: lambda: _rms_eager(inputs),
    shapes=_SHAPES,
    large_shapes=_LARGE,
    affine=_RMS_AFFINE,
    description="y = x / sqrt(mean(x²) + eps) · weight over the last axis",
)
_LAYER_GRADIENTS = {"dx": "x", "dweight": "weight", "dbias": "bias"}
LAYER_NORM_BACKWARD = backward_of(LAYER_NORM, gradients=_LAYER_GRADIENTS, unread=("bias",))
RMS_NORM_BACKWARD = backward_of(RMS_NORM, gradients={"dx": "x", "dweight": "weight"})


def with_residual(norm: NormOperation) -> NormOperation:
    """``total = x + residual`` in the dtype of ``x``, and the norm of that: outputs y and total."""

    def inputs(problem: NormProblem) -> dict[str, Any]:
        drawn = norm.inputs(problem)
        again = NormProblem(
            problem.shape, problem.dtype, seed=problem.seed + 7, device=drawn["x"].device
        )
        return {"x": drawn.pop("x"), "residual": again.sampler().normal(*problem.shape), **drawn}

    def eager(inputs: Inputs) -> Outputs:
        total = inputs["x"] + inputs["residual"]
        return (*norm.eager({**inputs, "x": total})(), total)

    def reference(inputs: Inputs) -> Outputs:
        total = _rounded(inputs["x"] + inputs["residual"], inputs["dtype"])
        return (*norm.reference({**inputs, "x": total}), total)

    return NormOperation(
        name=f"add_{norm.name}",
        outputs=("y", "total"),
        inputs=lambda problem: {**inputs(problem), "dtype": problem.dtype},
        reference=reference,
        eager=lambda inputs: lambda: eager(inputs),
        shapes=norm.shapes,
        large_shapes=norm.large_shapes[:2],
        affine=norm.affine,
        fused=("residual",),
        description=f"total = x + residual; y = {norm.name}(total)",
    )


def _rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """``values`` rounded to ``dtype``; gradients pass, as those of the unfused chain do."""
    return values + (values.to(dtype).double() - values).detach()


ADD_LAYER_NORM = with_residual(LAYER_NORM)
ADD_RMS_NORM = with_residual(RMS_NORM)
# A backward reads the sum that the forward saved, as large as ``x``, not its two terms.
ADD_LAYER_NORM_BACKWARD = backward_of(
    ADD_LAYER_NORM,
    gradients=_LAYER_GRADIENTS,
    seeds=("dy", "dtotal"),
    unread=("bias", "residual"),
)
ADD_RMS_NORM_BACKWARD = backward_of(
    ADD_RMS_NORM,
    gradients={"dx": "x", "dweight": "weight"},
    seeds=("dy", "dtotal"),
    unread=("residual",),
)
OPERATIONS = (
    LAYER_NORM,
    LAYER_NORM_BACKWARD,
    RMS_NORM,
    RMS_NORM_BACKWARD,
    ADD_LAYER_NORM,
    ADD_LAYER_NORM_BACKWARD,
    ADD_RMS_NORM,
    ADD_RMS_NORM_BACKWARD,
)
