"""Attention whose queries and keys are RMS-normalized, head by head."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch.nn.functional as F

from qbench_suite.norms.operation import Inputs, NormOperation, NormProblem, Outputs
from qbench_suite.norms.operations.rows import rms_normalized


def _inputs(problem: NormProblem) -> dict[str, Any]:
    batch, heads, tokens, width = problem.shape
    packed = problem.sampler().normal(batch, tokens, 3, heads, width)
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    draw = dataclasses.replace(problem, seed=problem.seed + 17).sampler()
    return {
        "q": q,
        "k": k,
        "v": v,
        "q_weight": draw.normal(width, mean=1.0, std=0.25),
        "k_weight": draw.normal(width, mean=1.0, std=0.25),
        "eps": 1e-6,
    }


def _reference(inputs: Inputs) -> Outputs:
    q = rms_normalized(inputs["q"], inputs["eps"]) * inputs["q_weight"]
    k = rms_normalized(inputs["k"], inputs["eps"]) * inputs["k_weight"]
    return (F.scaled_dot_product_attention(q, k, inputs["v"]),)


def _eager(inputs: Inputs) -> Outputs:
    width = [inputs["q"].shape[-1]]
    q = F.rms_norm(inputs["q"], width, inputs["q_weight"], inputs["eps"])
    k = F.rms_norm(inputs["k"], width, inputs["k_weight"], inputs["eps"])
    return (F.scaled_dot_product_attention(q, k, inputs["v"]),)


QK_NORM_ATTENTION = NormOperation(
    name="qk_norm_attention",
    outputs=("y",),
    inputs=_inputs,
    reference=_reference,
    eager=lambda inputs: lambda: _eager(inputs),
    shapes=("1x12x197x64", "4x16x256x72"),
    large_shapes=("8x24x1024x128",),
    rank=4,
    affine=("weight",),
    fused=("attention",),
    # Rounded probabilities and values: the error is that of attention, not of the norm.
    tolerance_ulps={"float32": 64.0, "float16": 16.0, "bfloat16": 16.0},
    description="attention of RMS-normalized queries and keys; (batch, heads, tokens, width)",
)
OPERATIONS = (QK_NORM_ATTENTION,)
