"""Norms as functions of tensors, and as ``torch.ops.qbench_norms``."""

from __future__ import annotations

from qbench_norms_cuda.ops.heads import qk_norm, qk_norm_attention
from qbench_norms_cuda.ops.images import batch_norm, group_norm, instance_norm
from qbench_norms_cuda.ops.norms import (
    adaptive_layer_norm,
    add_layer_norm,
    add_rms_norm,
    gated_adaptive_layer_norm,
    layer_norm,
    rms_norm,
    weight_norm,
)
from qbench_norms_cuda.ops.quantized import quantized_layer_norm, quantized_rms_norm
from qbench_norms_cuda.ops.tanh import dynamic_tanh

__all__ = [
    "adaptive_layer_norm",
    "add_layer_norm",
    "add_rms_norm",
    "batch_norm",
    "dynamic_tanh",
    "gated_adaptive_layer_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "qk_norm",
    "qk_norm_attention",
    "quantized_layer_norm",
    "quantized_rms_norm",
    "rms_norm",
    "weight_norm",
]
