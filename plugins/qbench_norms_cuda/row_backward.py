"""Gradients of LayerNorm, RMSNorm, AdaLN and weight_norm, in one read of dy and x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from qbench_norms_cuda.column_sum import column_sum, partial_sums
from qbench_norms_cuda.row_launches import (
    BOTH,
    EACH_ROW,
    FIRST,
    NONE,
    PACK,
    RowBackward,
    RowKernel,
    RowLaunches,
    RowSums,
    launches,
)
from qbench_norms_cuda.strides import as_rows
from qbench_suite import LaunchError, architecture_of

_VECTOR_BYTES = 16


@dataclass
class RowGradients:
    """Gradients of the inputs of ``row_forward``; None for one that is not asked for."""

    dx: Tensor | None = None
    dweight: Tensor | None = None
    dbias: Tensor | None = None
    dscale: Tensor | None = None
    dshift: Tensor | None = None


class _Multiplier(NamedTuple):
    """What multiplies the normalized value, and how rows share its gradient.

    ``groups`` of ``rows`` rows share it; ``each_row``: none do.
    """

    tensor: Tensor | None
    offset: float
    groups: int
    rows: int
    group_stride: int = 0
    row_stride: int = 0
    each_row: bool = False


def row_backward(
    dy: Tensor,
    x: Tensor,
    statistic: str,
    offset: Tensor | None,
    rstd: Tensor,
    *,
    weight: Tensor | None = None,
    weight_offset: float = 0.0,
    dtotal: Tensor | None = None,
    scale: Tensor | None = None,
    needs: tuple[str, ...] = ("dx",),
) -> RowGradients:
    """Gradients of ``row_forward``, those that ``needs`` names.

    With h = ((x − x₀) − offset) · rstd (``layer``) or x · rstd (``rms``, ``l2``) and
    g = dy · (weight + weight_offset), or dy · (1 + scale):
    ``layer`` dx = rstd · (g − mean(g) − h · mean(g · h)), ``rms`` dx = rstd · (g − h · mean(g · h)),
    ``l2`` dx = rstd · weight · (dy − h · Σ dy · h), and ``dtotal`` is added. dweight = Σ dy · h and
    dbias = Σ dy over all rows; dscale and dshift the same over the tokens of a batch, or of each token;
    of ``l2`` dweight = Σ dy · h of each row.

    dy, x, dtotal: ``(…, N)`` of one dtype; x is ``total`` where the forward added a residual. offset
    and rstd: ``(rows,)`` float32, as the forward saved them. weight: ``(N,)``, of ``l2`` ``(rows,)``,
    of any float dtype. scale: ``(B, 1, N)`` or ``(B, T, N)`` of an x of shape ``(B, T, N)``; not along
    with a weight; dshift has its shape. Gradients are contiguous, computed in float32 and rounded once
    to the dtype of what they are of (dbias that of weight, or of x without). dx of a row depends on that
    row alone, to the last bit; the other gradients on the device's number of multiprocessors as well,
    and are the same in every run. NaN or ±Inf in a row spoil its own dx and the sums that it is part of.
    Without rows sums are 0.
    """
    if weight is not None and scale is not None:
        raise LaunchError(
            "a row is scaled by a weight or by a condition; both were given; multiply them first."
        )
    multiplier = _multiplier(x, weight, weight_offset, scale)
    made = RowGradients()
    if "dx" in needs:
        made.dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    first, second = ("dweight", "dbias") if scale is None else ("dscale", "dshift")
    shape = x.shape[-1:] if multiplier.tensor is None else multiplier.tensor.shape
    kind = x.dtype if multiplier.tensor is None else multiplier.tensor.dtype
    gradients = [
        torch.empty(shape, dtype=kind, device=x.device) if name in needs else None
        for name in (first, second)
    ]
    setattr(made, first, gradients[0])
    setattr(made, second, gradients[1])
    if x.numel():
        read = [_spaced(tensor) for tensor in (dy, x, dtotal) if tensor is not None]
        _launch(statistic, read, (offset, rstd), multiplier, made.dx, gradients)
    else:
        for gradient in gradients:
            if gradient is not None:
                gradient.zero_()
    return made


def _multiplier(
    x: Tensor, weight: Tensor | None, weight_offset: float, scale: Tensor | None
) -> _Multiplier:
    rows = x.shape[:-1].numel()
    if scale is None:
        return _Multiplier(weight, weight_offset, 1, rows)
    batches, tokens, _ = x.shape
    of_batch, of_token = scale.stride(0), scale.stride(1)
    if scale.shape[1] != tokens:
        return _Multiplier(scale, 1.0, batches, tokens, of_batch)
    if tokens == 1 or batches == 1 or of_batch == tokens * of_token:
        step = of_batch if tokens == 1 else of_token
        return _Multiplier(scale, 1.0, 1, rows, row_stride=step, each_row=True)
    return _Multiplier(scale, 1.0, batches, tokens, of_batch, of_token, each_row=True)


def _spaced(tensor: Tensor) -> tuple[Tensor, int]:
    """As ``as_rows``, of any tensor; contiguous ones, the usual, are not looked at twice."""
    if tensor.is_contiguous():
        return tensor, tensor.shape[-1]
    packed = tensor.stride(-1) == 1 or tensor.shape[-1] == 1
    return as_rows(tensor if packed else tensor.contiguous())


def _sums(statistic: str, multiplier: _Multiplier, gradients: list[Tensor | None]) -> int:
    """What becomes of the gradients of multiplier and addend, as in csrc/row_backward.cuh."""
    first, second = gradients
    if statistic == "l2" or (first is None and second is None):
        return NONE
    if multiplier.each_row:
        return EACH_ROW
    return FIRST if second is None else BOTH


def _width(columns: int, read: list[tuple[Tensor, int]], of: Tensor | None, strides: int) -> int:
    """Elements that every row of every tensor lets one access move; ``strides`` or-ed, of ``of``."""
    size = read[0][0].element_size()
    bits = columns * size
    for tensor, stride in read:
        bits |= tensor.data_ptr() | stride * size
    width = min(bits & -bits, _VECTOR_BYTES) // size
    if of is None:
        return width
    bits = of.data_ptr() | strides * of.element_size()
    lowest = bits & -bits
    return min(width, lowest // of.element_size()) if lowest < _VECTOR_BYTES else width


def _launch(
    statistic: str,
    read: list[tuple[Tensor, int]],
    saved: tuple[Tensor | None, Tensor],
    multiplier: _Multiplier,
    dx: Tensor | None,
    gradients: list[Tensor | None],
) -> None:
    x = read[1][0]
    columns, device, of = x.shape[-1], x.device, multiplier.tensor
    groups, rows = multiplier.groups, multiplier.rows
    strides = multiplier.group_stride | multiplier.row_stride
    kernel = RowKernel(
        statistic,
        _sums(statistic, multiplier, gradients),
        len(read),
        x.dtype,
        x.dtype if of is None else of.dtype,
        columns,
        groups,
        rows,
        _width(columns, read, None if statistic == "l2" else of, strides),
    )
    made = launches(kernel, device, architecture_of(device))
    partial = sums = None
    if made.parts > 1 and kernel.sums in (FIRST, BOTH):
        partial = partial_sums(kernel.sums, groups, made.parts, columns, device)
    outputs = (dx, *gradients, partial)

    def arguments(sums: Tensor | None) -> RowBackward:
        return _arguments(kernel, made, read, saved, multiplier, outputs, sums)

    if made.tiles is not None and made.rows is not None:
        of_tiles = torch.empty(
            (groups * rows, made.split.tiles, 2), dtype=torch.float32, device=device
        )
        sums = torch.empty((groups * rows, 2), dtype=torch.float32, device=device)
        made.tiles(arguments(of_tiles))
        made.rows(RowSums(of_tiles.data_ptr(), sums.data_ptr(), made.split.tiles))
    made.last(arguments(sums))
    if partial is not None:
        column_sum(partial, gradients[: kernel.sums])


def _arguments(
    kernel: RowKernel,
    made: RowLaunches,
    read: list[tuple[Tensor, int]],
    saved: tuple[Tensor | None, Tensor],
    multiplier: _Multiplier,
    outputs: tuple[Tensor | None, ...],
    sums: Tensor | None,
) -> RowBackward:
    (dy, dy_stride), (x, x_stride) = read[:2]
    dtotal, dtotal_stride = read[2] if len(read) > 2 else (None, 0)
    split, columns, rows = made.split, kernel.columns, kernel.group_rows
    partial = outputs[-1]
    step = made.parts * (split.block // split.threads)
    return RowBackward.from_buffer_copy(
        PACK(
            *(dy.data_ptr(), x.data_ptr(), _address(dtotal), _address(multiplier.tensor)),
            *(_address(saved[0]), saved[1].data_ptr(), *map(_address, outputs), _address(sums)),
            *(columns, 0 if partial is None else partial.shape[-1], kernel.groups, rows),
            *(dy_stride, x_stride, dtotal_stride),
            *(step * dy_stride, step * x_stride, step * dtotal_stride, step * columns),
            *(rows % step, multiplier.group_stride, multiplier.row_stride),
            *(split.tiles, split.tile_columns, rows // step, made.parts, split.threads),
            *(multiplier.offset, 1.0 if kernel.statistic == "l2" else 1.0 / columns),
        )
    )


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
