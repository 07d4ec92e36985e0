"""Forward norms of rows: what is launched, and how; no checks, no autograd."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qbench_norms_cuda.row_kernels import (
    CHUNKS,
    CODES,
    Quantization,
    row_arguments,
    row_launch,
)
from qbench_norms_cuda.row_plan import VECTOR_BYTES
from qbench_norms_cuda.strides import as_rows
from qbench_suite import LaunchError

__all__ = ["Quantization", "RowOutputs", "row_forward"]
#: Floats that a slice leaves: count, mean and squares, of values as they are, made smaller, made larger.
_PARTIAL = 3 * 3
#: Pointer, stride from batch to batch, stride from token to token.
_Modulation = tuple[int, int, int]
_NONE: _Modulation = (0, 0, 0)


@dataclass
class RowOutputs:
    """What a forward gives; None for what was not asked for.

    ``y``, ``total``, ``codes`` have the shape of the input; ``scales`` is float32, (..., 1) by row,
    (..., chunks) by chunk, or the one given; ``offset`` and ``rstd`` are (rows,) in float32.
    """

    y: Tensor | None = None
    total: Tensor | None = None
    codes: Tensor | None = None
    scales: Tensor | None = None
    offset: Tensor | None = None
    rstd: Tensor | None = None


def row_forward(
    x: Tensor,
    statistic: str,
    eps: float = 0.0,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    weight_offset: float = 0.0,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    quantization: Quantization | None = None,
    given_scale: Tensor | None = None,
    save: bool = False,
) -> RowOutputs:
    """Norms of the rows of ``x`` (..., N), last stride 1; all tensors are checked already.

    ``total = x + residual`` (or ``residual + gate · x``), rounded; ``statistic`` of it: ``layer``,
    ``rms`` or ``l2`` (whose ``weight`` has an element a row); ``weight`` and ``bias`` (N,), or
    ``1 + scale`` and ``shift``, (B, 1, N) or (B, T, N) as ``gate`` is. ``save``: offset
    (``mean − x[row, 0]`` of total, layer only) and rstd.

    Raises:
        LaunchError: weight or bias together with scale or shift; ``l2`` with bias, scale or shift.
    """
    conditioned = scale is not None or shift is not None
    if conditioned or (statistic == "l2" and bias is not None):
        _check_affine(statistic, {"weight": weight, "bias": bias, "scale": scale, "shift": shift})
    if conditioned:
        weight, bias, weight_offset = scale, shift, 1.0
    made = RowOutputs()
    if quantization is None:
        made.y = _like(x)
    else:
        made.codes = torch.empty_like(
            x, dtype=CODES[quantization.format][1], memory_format=torch.contiguous_format
        )
        made.scales = _scales(x, quantization) if given_scale is None else given_scale
    if residual is not None:
        made.total = _like(x)
    if save:
        rows = x.numel() // x.size(-1)
        made.rstd = x.new_empty(rows, dtype=torch.float32)
        made.offset = torch.empty_like(made.rstd) if statistic == "layer" else None
    if x.numel():
        norm = (statistic, conditioned, quantization)
        _launch(x, norm, eps, residual, gate, (weight, bias, weight_offset), made)
    return made


def _check_affine(statistic: str, options: dict[str, Tensor | None]) -> None:
    given = [name for name, values in options.items() if values is not None]
    if statistic == "l2" and (other := [name for name in given if name != "weight"]):
        raise LaunchError(
            "statistic 'l2' divides a row by its norm and multiplies it with an element of weight; "
            f"{', '.join(other)} given as well; apply that to its output, or ask for 'layer' or 'rms'."
        )
    if statistic != "l2" and {"weight", "bias"}.intersection(given):
        raise LaunchError(
            "a row is scaled by a weight or by a condition; both were given; multiply them first."
        )


def _like(x: Tensor) -> Tensor:
    if x.is_contiguous():
        return torch.empty_like(x)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _scales(x: Tensor, quantization: Quantization) -> Tensor:
    groups = -(-x.size(-1) // CHUNKS.get(quantization.mode, x.size(-1)))
    return x.new_empty((*x.shape[:-1], groups), dtype=torch.float32)


def _launch(
    x: Tensor,
    norm: tuple[str, bool, Quantization | None],
    eps: float,
    residual: Tensor | None,
    gate: Tensor | None,
    affine: tuple[Tensor | None, Tensor | None, float],
    made: RowOutputs,
) -> None:
    statistic, conditioned, quantization = norm
    weight, bias, weight_offset = affine
    n, size, device, dtype = x.size(-1), x.element_size(), x.device, x.dtype
    tokens = x.size(1) if x.dim() == 3 else 1
    x, stride = (x, n) if x.is_contiguous() else as_rows(x)
    rows, at = x.numel() // n, x.data_ptr()
    added, added_stride = 0, 0
    if residual is not None:
        residual, added_stride = (residual, n) if residual.is_contiguous() else as_rows(residual)
        added = residual.data_ptr()
    w = _NONE if weight is None else _modulation(weight)
    b = _NONE if bias is None else _modulation(bias)
    g = _NONE if gate is None else _modulation(gate)
    values = bias if weight is None else weight
    kind = dtype if values is None else values.dtype
    same = at | added | g[0] | (stride | added_stride | g[1] | g[2] | n) * size
    weights = 0
    if statistic != "l2":
        weights = w[0] | b[0] | (w[1] | w[2] | b[1] | b[2]) * kind.itemsize
    width = _width(size, same, kind.itemsize, weights)
    launch = row_launch((statistic, conditioned, dtype, kind, quantization), n, rows, width, device)
    held = launch.held
    partials = 0
    if held.slices > 1:
        count = rows * held.slices
        scratch = x.new_empty(count * (_PARTIAL + 1), dtype=torch.float32)
        partials = scratch.data_ptr()
    arguments = row_arguments(
        *(at, added, *g, *w, *b, *_addresses(made, quantization)),
        *(partials, partials + rows * held.slices * _PARTIAL * 4),
        *(rows, n, stride, added_stride, tokens, held.shared_items, eps, weight_offset),
    )
    for plan in launch.plans:
        plan(arguments)


def _addresses(made: RowOutputs, quantization: Quantization | None) -> tuple[int, ...]:
    """Pointers to outputs, and to the scale that is given."""
    y = made.codes if made.y is None else made.y
    scales = _address(made.scales)
    return (
        _address(y),
        _address(made.total),
        scales,
        scales if quantization is not None and quantization.mode == "static" else 0,
        _address(made.offset),
        _address(made.rstd),
    )


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _modulation(values: Tensor) -> _Modulation:
    """Of what modulates rows; what is (N,) is alike for all of them."""
    if values.dim() == 1:
        return values.data_ptr(), 0, 0
    batch, token, _ = values.stride()
    return values.data_ptr(), batch, token if values.size(1) > 1 else 0


def _width(size: int, same: int, weight_size: int, weights: int) -> int:
    """Elements of ``size`` bytes that an access may move.

    ``same``, ``weights``: addresses and strides in bytes, all or-ed, of tensors of x's dtype and of
    the weights'.
    """
    width = VECTOR_BYTES // size
    for bits, each in ((same, size), (weights, weight_size)):
        lowest = bits & -bits
        if 0 < lowest < VECTOR_BYTES:
            width = min(width, lowest // each)
    return width
