"""Integer operators: in C++ where there is a compiler, in torch elsewhere, with the same bits."""

from qbench_fqvit.ops import reference as reference
from qbench_fqvit.ops.native import libraries
from qbench_fqvit.ops.operators import (
    attention,
    context,
    gemm,
    layer_norm,
    linear_requantize,
    linear_residual,
    requantize,
    requantize_lookup,
    residual,
    scores,
    softmax_codes,
)

__all__ = [
    "attention",
    "context",
    "gemm",
    "layer_norm",
    "libraries",
    "linear_requantize",
    "linear_residual",
    "reference",
    "requantize",
    "requantize_lookup",
    "residual",
    "scores",
    "softmax_codes",
]
