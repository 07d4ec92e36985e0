"""Pieces: a tensor and its groups as few strided views in which groups are whole.

A tensor of shape ``s`` in groups of shape ``g`` is cut where a group does not divide an axis (a
shorter last group keeps its own scale, without padding), and each piece is folded: every axis becomes
(groups, elements of a group), axes of length 1 vanish, neighbours of the same kind merge. What is
left alternates between *kept* and *reduced* axes: one reduced axis for a scale a tensor, (kept,
reduced) for rows and chunks, (reduced, kept, reduced) for the channels of an image. So few shapes
reach the kernel, whatever the layer, and none of them copies the tensor.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

from torch import Tensor

from qbench_suite.scaling.granularity import Shape

#: An axis while it is being folded: (length, stride in elements, whether it is reduced).
_Axis = tuple[int, int, bool]


@dataclass(frozen=True)
class Piece:
    """One folded view of a tensor: arguments for ``as_strided`` and the axes to reduce."""

    #: Shape of the view.
    shape: Shape
    #: Strides of the view, in elements.
    strides: Shape
    #: Offset of the view from the tensor's first element, in elements.
    offset: int
    #: Axes of the view over which a group extends; () where each element is its own group.
    reduced: Shape
    #: For each axis of the scale tensor, the first group of this piece and the one after its last.
    groups: tuple[tuple[int, int], ...]
    #: Axes of the scale tensor in the order in which the view walks memory.
    order: Shape

    @property
    def kept_shape(self) -> Shape:
        """Shape of the piece's scales with reduced axes of length 1, to broadcast over the view."""
        return tuple(1 if i in self.reduced else n for i, n in enumerate(self.shape))

    def fold_scale(self, scale: Tensor) -> Tensor:
        """The part of a scale tensor that serves this piece, in ``kept_shape``."""
        part = scale[tuple(slice(first, last) for first, last in self.groups)]
        return part.permute(self.order).reshape(self.kept_shape)


def scale_shape(shape: Shape, group_shape: Shape) -> Shape:
    """Shape of the scale tensor: the number of groups along each axis."""
    return tuple(-(-n // g) if g else 0 for n, g in zip(shape, group_shape, strict=True))


def is_dense(shape: Shape, strides: Shape) -> bool:
    """Whether the elements fill a block of memory without overlap, in whatever axis order."""
    expected = 1
    for size, stride in sorted(zip(shape, strides, strict=True), key=lambda axis: axis[1]):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


@functools.lru_cache(maxsize=4096)
def cut(shape: Shape, strides: Shape, group_shape: Shape) -> tuple[Piece, ...]:
    """The pieces of a tensor with these strides; () for an empty tensor.

    ``shape``, ``strides``, ``group_shape``: equal lengths; at most 2^rank pieces, 1 where groups
    divide the shape.
    """
    if 0 in shape:
        return ()
    order = tuple(sorted(range(len(shape)), key=lambda i: -strides[i]))
    spans = [_spans(n, g) for n, g in zip(shape, group_shape, strict=True)]
    return tuple(_fold(choice, strides, order) for choice in itertools.product(*spans))


@dataclass(frozen=True)
class _Span:
    """Whole groups of equal length along one axis."""

    first_element: int
    first_group: int
    groups: int
    size: int


def _spans(length: int, group: int) -> list[_Span]:
    whole, rest = divmod(length, group)
    spans = [_Span(0, 0, whole, group)] if whole else []
    if rest:
        spans.append(_Span(whole * group, whole, 1, rest))
    return spans


def _fold(spans: tuple[_Span, ...], strides: Shape, order: Shape) -> Piece:
    axes: list[_Axis] = []
    for i in order:
        span = spans[i]
        for axis in (
            (span.groups, strides[i] * span.size, False),
            (span.size, strides[i], True),
        ):
            if axis[0] > 1:
                _append(axes, axis)
    return Piece(
        shape=tuple(length for length, _, _ in axes),
        strides=tuple(stride for _, stride, _ in axes),
        offset=sum(span.first_element * strides[i] for i, span in enumerate(spans)),
        reduced=tuple(i for i, (_, _, reduced) in enumerate(axes) if reduced),
        groups=tuple((span.first_group, span.first_group + span.groups) for span in spans),
        order=order,
    )


def _append(axes: list[_Axis], axis: _Axis) -> None:
    """Append ``axis``, merged into the last one where both are alike and adjacent in memory."""
    length, stride, reduced = axis
    if axes:
        last_length, last_stride, last_reduced = axes[-1]
        if last_reduced == reduced and last_stride == stride * length:
            axes[-1] = (last_length * length, stride, reduced)
            return
    axes.append(axis)
