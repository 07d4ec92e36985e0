"""Norms of rows as functions: LayerNorm, RMSNorm, their residual and adaptive forms, weight_norm.

All take float32, float16 and bfloat16, compute in float32 and round once; rows may be strided views
(an input whose last axis is not contiguous is copied). An empty batch gives empty outputs. NaN and
±Inf stay in their row: it becomes what the formula gives, NaN in general. Autocast is not consulted:
outputs have the dtype of ``x``. Gradients are deterministic; there are none of gradients.

Raises of all:
    LaunchError: shapes, dtypes or eps that do not fit; the message names the argument.
    DeviceError: tensors on no CUDA device, or on several.
"""

from __future__ import annotations

from torch import Tensor

from qbench_norms_cuda.checks import dtype_of
from qbench_norms_cuda.ops.rows import ROW_NORM
from qbench_suite import LaunchError


def layer_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    weight_offset: float = 0.0,
) -> Tensor:
    """``(x − mean) / sqrt(var + eps) · (weight + weight_offset) + bias`` over the last axis.

    x (..., N); weight, bias (N,), of one dtype, which may be another than that of x. The variance has
    divisor N. A constant row gives the bias.
    """
    y: Tensor = ROW_NORM(x, "layer", eps, weight, bias, weight_offset, None, None, None, None)[0]
    return y


def rms_norm(
    x: Tensor, weight: Tensor | None = None, eps: float = 1e-6, *, weight_offset: float = 0.0
) -> Tensor:
    """``x / sqrt(mean(x²) + eps) · (weight + weight_offset)`` over the last axis.

    x (..., N); weight (N,). ``weight_offset=1`` for weights that are stored around 0.
    """
    y: Tensor = ROW_NORM(x, "rms", eps, weight, None, weight_offset, None, None, None, None)[0]
    return y


def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    weight_offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """``total = x + residual``, rounded to the dtype of x; ``(layer_norm(total), total)`` in one read."""
    y, total = ROW_NORM(x, "layer", eps, weight, bias, weight_offset, residual, None, None, None)[
        :2
    ]
    return y, total


def add_rms_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-6,
    *,
    weight_offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """``total = x + residual``, rounded to the dtype of x; ``(rms_norm(total), total)`` in one read."""
    y, total = ROW_NORM(x, "rms", eps, weight, None, weight_offset, residual, None, None, None)[:2]
    return y, total


def adaptive_layer_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6) -> Tensor:
    """``(x − mean) / sqrt(var + eps) · (1 + scale) + shift`` over the last axis.

    x (B, T, N); scale and shift (B, 1, N), one row a batch, or (B, T, N), one a token, each its own
    way: views of any stride, such as ``condition.chunk(6, -1)`` gives.
    """
    y: Tensor = ROW_NORM(x, "layer", eps, None, None, 0.0, None, None, scale, shift)[0]
    return y


def gated_adaptive_layer_norm(
    x: Tensor, residual: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """``total = residual + gate · x``; ``(adaptive_layer_norm(total, scale, shift), total)`` in one read.

    gate as scale and shift. Gradients of gate and x are made by torch from that of total.
    """
    y, total = ROW_NORM(x, "layer", eps, None, None, 0.0, residual, gate, scale, shift)[:2]
    return y, total


def weight_norm(v: Tensor, g: Tensor) -> Tensor:
    """``g · v / ‖v‖``, the Euclidean norm over all axes but the first.

    v (O, ...), of two axes at least; g with O elements, (O,) or (O, 1, ...). A row of zeros gives NaN,
    as the formula does.
    """
    _check_direction(v, g)
    w: Tensor = ROW_NORM(v.flatten(1), "l2", 0.0, g.flatten(), None, 0.0, None, None, None, None)[0]
    return w.reshape(v.shape)


def _check_direction(v: Tensor, g: Tensor) -> None:
    """``v`` has rows, of one axis or more, and ``g`` a length for each."""
    for name, tensor in (("v", v), ("g", g)):
        dtype_of(name, tensor)
    if v.dim() < 2:
        raise LaunchError(
            "weight_norm takes the norm over all axes but the first; v has shape "
            f"{tuple(v.shape)}; give it a second axis with unsqueeze(-1)."
        )
    if g.numel() != v.shape[0]:
        raise LaunchError(
            f"g has one element for each of {v.shape[0]} rows of v; its shape is {tuple(g.shape)}; "
            f"pass one of shape ({v.shape[0]},)."
        )
