"""Screen: whether a whole tensor is exactly on the grid, in cache-sized blocks, by few operations.

It decides most tensors. What it does not pass may still be legal (NaN that the source explains,
values of a narrow dtype, specified overflow): that is for ``check_grid`` to say.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from qbench_suite.errors import FormatError
from qbench_suite.formats import FloatFormat, Format, IntFormat, Overflow, Rounding
from qbench_suite.scaling import FakeQuantized
from qbench_suite.scaling.kernel import to_dtype
from qbench_suite.scaling.pieces import cut, is_dense

#: Elements of a block: with its intermediate results it stays in the processor's cache.
_BLOCK = 1 << 16

#: ``nearest(v, zero_point)``: the value of the format, less the zero point, that is nearest to v.
Nearest = Callable[[Tensor, Tensor | None], Tensor]


def passes(result: FakeQuantized) -> bool:
    """Whether every value is ``fl(q · scale)`` for a q of the format; False where that is not seen.

    q is the value of the format nearest to ``value / scale``, found without the format's own
    ``round``, whose mistakes would hide themselves.
    """
    values, scale, zero_point = result.values, result.scale, result.zero_point
    if not values.numel():
        return True
    nearest = _nearest(result.format, values.device)
    if nearest is None or not bool(((scale > 0) & scale.isfinite()).all()):
        return False
    if zero_point is not None and not bool(result.format.contains(zero_point).all()):
        return False
    shape = tuple(values.shape)
    if not is_dense(shape, values.stride()):
        values = values.contiguous()
    off = torch.zeros((), dtype=torch.bool, device=values.device)
    for piece in cut(shape, values.stride(), result.group_shape):
        offset = values.storage_offset() + piece.offset
        view = values.as_strided(piece.shape, piece.strides, offset)
        folded = None if zero_point is None else piece.fold_scale(zero_point)
        for part, s, z in _blocks(view, piece.fold_scale(scale), folded):
            legal = to_dtype(nearest(part.to(torch.float32) / s, z) * s, part.dtype)
            off |= (legal != part).any()
    return not bool(off)


def _blocks(
    x: Tensor, scale: Tensor, zero_point: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """``x`` in blocks of its outermost axes, each with the scales and zero points that serve it."""
    if x.numel() <= _BLOCK:
        yield x, scale, zero_point
        return
    axis = next(i for i, size in enumerate(x.shape) if size > 1)
    step = max(_BLOCK * x.shape[axis] // x.numel(), 1)
    for start in range(0, x.shape[axis], step):
        length = min(step, x.shape[axis] - start)
        parts = [
            t if t is None or t.shape[axis] == 1 else t.narrow(axis, start, length)
            for t in (x, scale, zero_point)
        ]
        assert parts[0] is not None
        assert parts[1] is not None
        yield from _blocks(parts[0], parts[1], parts[2])


@functools.cache
def _nearest(format: Format, device: torch.device) -> Nearest | None:
    """Rounding to the nearest value by the format's primary facts; None where it lists none."""
    if isinstance(format, IntFormat):
        return functools.partial(_nearest_integer, format.low, format.high)
    if isinstance(format, FloatFormat):
        plain = replace(format, rounding=Rounding.NEAREST, overflow=Overflow.SATURATE)
        # Unbound, so that a subclass's own ``round`` has no say.
        return lambda v, _: FloatFormat.round(plain, v)
    try:
        table = torch.tensor(format.values, dtype=torch.float32, device=device)
    except FormatError:
        return None
    middles = (table[1:].double() + table[:-1].double()) / 2
    return functools.partial(_nearest_of_table, table, middles.to(torch.float32))


def _nearest_integer(low: int, high: int, v: Tensor, zero_point: Tensor | None) -> Tensor:
    if zero_point is None:
        return torch.round(v).clamp_(low, high)
    return torch.minimum(torch.maximum(torch.round(v), low - zero_point), high - zero_point)


def _nearest_of_table(table: Tensor, middles: Tensor, v: Tensor, _: Tensor | None) -> Tensor:
    places = torch.bucketize(v.contiguous(), middles)
    return table.index_select(0, places.view(-1)).view(v.shape)
