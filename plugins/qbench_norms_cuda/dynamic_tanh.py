"""Dynamic tanh: ``y = tanh(alpha · x) · weight + bias``, forward and backward, on checked tensors."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qbench_norms_cuda.column_sum import C_NAMES, column_sum, partial_sums
from qbench_norms_cuda.strides import as_rows, widest_access
from qbench_suite import Architecture, CudaSource, LaunchPlan, architecture_of

SOURCE = CudaSource(Path(__file__).parent / "csrc" / "dynamic_tanh.cu")
_BLOCK = 256
_MOST_BLOCKS_DOWN = 65_535
#: Blocks that a multiprocessor has at once: as many as the registers of the kernels allow.
_FORWARD_BLOCKS, _BACKWARD_BLOCKS = 4, 2
_KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class _Number(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("kind", ctypes.c_int)]


class _Forward(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "weight", "bias", "y")),
        ("alpha", _Number),
        *((name, ctypes.c_longlong) for name in ("rows", "columns", "x_stride")),
        ("across", ctypes.c_int),
    ]


class _Backward(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_void_p) for n in ("dy", "x", "weight", "dx", "dweight", "dbias", "dalpha")),
        ("alpha", _Number),
        *((n, ctypes.c_longlong) for n in ("rows", "columns", "dy_stride", "x_stride", "pitch")),
        ("across", ctypes.c_int),
    ]


@dataclass
class TanhGradients:
    """Gradients that were asked for; None for others."""

    dx: Tensor | None = None
    dalpha: Tensor | None = None
    dweight: Tensor | None = None
    dbias: Tensor | None = None


@dataclass(frozen=True)
class Tiling:
    """How blocks cover rows: ``across`` threads along a row, blocks along x over columns, y over rows."""

    across: int
    blocks_across: int
    blocks_down: int


@functools.lru_cache(maxsize=1024)
def tiling(rows: int, columns: int, element_bytes: int, blocks: int) -> Tiling:
    """The tiling of about ``blocks`` blocks that wastes the fewest threads on what is beyond a row."""
    vectors = -(-columns * element_bytes // 16)
    if vectors < 32:
        across = 1 << (vectors - 1).bit_length()
    else:
        across = min((256, 128, 64, 32), key=lambda width: -vectors % width)
    blocks_across = -(-vectors // across)
    down = -(-rows * across // _BLOCK)
    return Tiling(
        across, blocks_across, max(1, min(down, blocks // blocks_across, _MOST_BLOCKS_DOWN))
    )


@functools.lru_cache(maxsize=1024)
def _plan(
    expression: str,
    tiles: Tiling,
    shared_bytes: int,
    device: torch.device,
    architecture: Architecture,
) -> LaunchPlan:
    """The launch; ``architecture`` is that of ``device``, which the CPU may change."""
    return SOURCE.function(expression).plan(
        grid=(tiles.blocks_across, tiles.blocks_down, 1),
        block=(_BLOCK, 1, 1),
        shared_bytes=shared_bytes,
        dependent=True,
        device=device,
    )


def _expression(kernel: str, x: Tensor, weight: Tensor | None, width: int) -> str:
    of_weight = x.dtype if weight is None else weight.dtype
    return f"{kernel}<{C_NAMES[x.dtype]}, {C_NAMES[of_weight]}, {width}>"


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _number(alpha: Tensor) -> _Number:
    return _Number(alpha.data_ptr(), _KINDS[alpha.dtype])


def dynamic_tanh(x: Tensor, alpha: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """``tanh(alpha · x) · weight + bias``; x (..., N), its last axis contiguous, alpha of one element."""
    architecture = architecture_of(x.device)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    if not x.numel():
        return y
    x, stride = as_rows(x)
    columns, rows = x.shape[-1], x.numel() // x.shape[-1]
    size = x.element_size()
    width = widest_access(x, (x, stride), (y, columns), (weight, 0), (bias, 0))
    tiles = tiling(rows, columns, size, _FORWARD_BLOCKS * architecture.multiprocessors)
    pointers = (_pointer(tensor) for tensor in (x, weight, bias, y))
    launch = _plan(_expression("dynamic_tanh", x, weight, width), tiles, 0, x.device, architecture)
    launch(_Forward(*pointers, _number(alpha), rows, columns, stride, tiles.across))
    return y


def dynamic_tanh_backward(
    dy: Tensor, x: Tensor, alpha: Tensor, weight: Tensor | None, needs: tuple[str, ...]
) -> TanhGradients:
    """The gradients named in ``needs``: of ``dx``, ``dalpha``, ``dweight``, ``dbias``.

    dy like x, of any strides; dbias has the dtype of weight. Sums over rows are taken in float32, in
    an order that depends on the shape and the device alone.
    """
    columns, rows, size = x.shape[-1], x.numel() // x.shape[-1], x.element_size()
    tiles = tiling(
        rows, columns, size, _BACKWARD_BLOCKS * architecture_of(x.device).multiprocessors
    )
    parts = tiles.blocks_down if rows else 0
    of_weight = x.dtype if weight is None else weight.dtype
    made = TanhGradients(
        dx=x.new_empty(x.shape) if "dx" in needs else None,
        dalpha=torch.empty_like(alpha) if "dalpha" in needs else None,
        dweight=x.new_empty(columns, dtype=of_weight) if "dweight" in needs else None,
        dbias=x.new_empty(columns, dtype=of_weight) if "dbias" in needs else None,
    )
    of_columns = partial_sums(2, 1, parts, columns, x.device)
    of_alpha = partial_sums(1, 1, parts * tiles.blocks_across, 1, x.device)
    if rows:
        _launch_backward(dy, x, alpha, weight, made, of_columns, of_alpha, tiles)
    column_sum(of_columns, (made.dweight, made.dbias))
    column_sum(of_alpha, (None if made.dalpha is None else made.dalpha.view(1, 1),))
    return made


def _launch_backward(
    dy: Tensor,
    x: Tensor,
    alpha: Tensor,
    weight: Tensor | None,
    made: TanhGradients,
    of_columns: Tensor,
    of_alpha: Tensor,
    tiles: Tiling,
) -> None:
    (x, stride), (dy, dy_stride) = as_rows(x), as_rows(dy)
    columns, size = x.shape[-1], x.element_size()
    width = widest_access(x, (x, stride), (dy, dy_stride), (made.dx, columns), (weight, 0))
    sums = (
        (made.dweight, of_columns[0]),
        (made.dbias, of_columns[1]),
        (made.dalpha, of_alpha),
    )
    arguments = _Backward(
        *map(_pointer, (dy, x, weight, made.dx)),
        *(None if total is None else partial.data_ptr() for total, partial in sums),
        _number(alpha),
        *(x.numel() // columns, columns, dy_stride, stride, of_columns.shape[-1]),
        tiles.across,
    )
    shared_bytes = _BLOCK * 16 // size * 4
    kernel = _expression("dynamic_tanh_backward", x, weight, width)
    _plan(kernel, tiles, shared_bytes, x.device, architecture_of(x.device))(arguments)
