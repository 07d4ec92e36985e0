"""Norms of rows that give 8-bit codes and their scales instead of floats, in one read."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from qbench_norms_cuda.checks import check_quantization
from qbench_norms_cuda.ops.operator import Operator
from qbench_norms_cuda.ops.rows import SCHEMA, checked, forward
from qbench_norms_cuda.row_forward import Quantization
from qbench_suite import KernelError

_CODES = {"fp8_e4m3": torch.float8_e4m3fn, "int8": torch.int8}
#: Elements that share a scale, by mode; all of a row in others.
_CHUNKS = {"chunk128": 128, "mx32": 32}


def _plain(*args: Any) -> tuple[Tensor | None, ...]:
    *norm, format, mode, given = args
    check_quantization(format, mode, given, norm[0])
    made = forward(*norm, quantization=Quantization(format, mode), given_scale=given)
    return made.codes, made.scales, made.total


def _run(*args: Any) -> tuple[Tensor | None, ...]:
    codes, scales, total = _plain(*args)
    given = args[-1]
    # An operation's outputs are its own.
    return codes, scales if given is None else given.clone(), total


def _fake(*args: Any) -> tuple[Tensor | None, ...]:
    *norm, format, mode, given = args
    checked(*norm)
    x, residual = norm[0], norm[6]
    check_quantization(format, mode, given, x)
    codes = x.new_empty(x.shape, dtype=_CODES[format])
    groups = -(-x.shape[-1] // _CHUNKS.get(mode, x.shape[-1]))
    scales = x.new_empty((*x.shape[:-1], groups), dtype=torch.float32)
    total = None if residual is None else x.new_empty(x.shape)
    return codes, scales if given is None else torch.empty_like(given), total


def _setup(ctx: Any, _: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    codes, scales, _total = output
    ctx.mark_non_differentiable(codes, scales)


def _backward(*_: Any) -> NoReturn:
    raise KernelError(
        "codes have no gradient, nor has the sum that comes with them; one was asked for; "
        "train with the norm without quantization."
    )


QUANTIZED_ROW_NORM = Operator(
    f"quantized_row_norm({SCHEMA}, str format, str mode, Tensor? given_scale)"
    " -> (Tensor codes, Tensor scales, Tensor total)",
    _run,
    _fake,
    setup=_setup,
    backward=_backward,
    plain=_plain,
)


def quantized_layer_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    weight_offset: float = 0.0,
    format: str = "fp8_e4m3",
    mode: str = "token",
    scale: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """``layer_norm`` of x, or of x + residual, as ``(codes, scales)`` or ``(codes, scales, total)``.

    The norm is rounded to the dtype of x; codes are ``round(norm / scale)``, to nearest, ties to even,
    saturating, of the shape of x. ``format``: ``fp8_e4m3`` or ``int8``. ``mode``: ``token``, a scale
    (..., 1) a row, its absolute maximum over the largest code; ``chunk128``, likewise each 128 elements;
    ``mx32``, a power of two each 32 (OCP Microscaling v1.0); ``static``, the scale given, of one
    element, float32. A group of zeros has scale 1.
    """
    norm = (x, "layer", eps, weight, bias, weight_offset, residual, None, None, None)
    return _made(QUANTIZED_ROW_NORM(*norm, format, mode, scale), residual)


def quantized_rms_norm(
    x: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-6,
    *,
    residual: Tensor | None = None,
    weight_offset: float = 0.0,
    format: str = "fp8_e4m3",
    mode: str = "token",
    scale: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """``rms_norm`` of x, or of x + residual, as codes and scales: see ``quantized_layer_norm``."""
    norm = (x, "rms", eps, weight, None, weight_offset, residual, None, None, None)
    return _made(QUANTIZED_ROW_NORM(*norm, format, mode, scale), residual)


def _made(outputs: tuple[Tensor, ...], residual: Tensor | None) -> tuple[Tensor, ...]:
    return outputs[:2] if residual is None else outputs
