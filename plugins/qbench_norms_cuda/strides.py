"""How rows lie in memory: one stride from row to row, and how many elements an access may move."""

from __future__ import annotations

import math
from typing import TypeVar

from torch import Tensor

#: A tensor, or one that may be left out.
Maybe = TypeVar("Maybe", Tensor, Tensor | None)


def packed(tensor: Maybe) -> Maybe:
    """``tensor``, copied where neighbours of its last axis are not neighbours in memory."""
    if tensor is None or tensor.stride(-1) == 1 or tensor.shape[-1] == 1:
        return tensor
    return tensor.contiguous()


def as_rows(x: Tensor) -> tuple[Tensor, int]:
    """``x`` (..., N) as it is where its rows are evenly spaced, else a copy; and that spacing.

    The last axis is contiguous already. The spacing is in elements, from a row to the next.
    """
    expected = None
    for length, stride in zip(reversed(x.shape[:-1]), reversed(x.stride()[:-1]), strict=True):
        if length == 1:
            continue
        if expected is None:
            first = stride
        elif stride != expected:
            return x.contiguous(), x.shape[-1]
        expected = stride * length
    return x, x.shape[-1] if expected is None else first


def widest_access(x: Tensor, *tensors: tuple[Tensor | None, int]) -> int:
    """Elements of an access to rows like those of ``x``: a power of two that divides their length.

    Every (tensor, stride of its rows in elements) allows it. It is at most 16 bytes of ``x``; of a
    tensor of wider elements, kernels make several of 16 bytes of it.
    """
    width = math.gcd(x.shape[-1], 16 // x.element_size())
    for tensor, stride in tensors:
        if tensor is not None:
            size = tensor.element_size()
            aligned = math.gcd(tensor.data_ptr(), stride * size, 16)
            if aligned < 16:
                width = min(width, max(aligned // size, 1))
    return width
