"""Granularity: how many elements along each axis share one scale."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from qbench_suite.errors import ModeError
from qbench_suite.scaling.axes import Axes

Shape = tuple[int, ...]


class Granularity(ABC):
    """Lays scales over a tensor: ``group_shape`` says how many elements share one, per axis."""

    @abstractmethod
    def group_shape(self, shape: Shape, axes: Axes) -> Shape:
        """Elements that share a scale along each axis; 1 keeps the axis, its full length shares it.

        The scale has shape ``ceil(shape / group_shape)``; a shorter last group has its own scale.
        """


@dataclass(frozen=True)
class PerTensor(Granularity):
    """One scale: ``(64, 3, 7, 7) → scale (1, 1, 1, 1)``."""

    def group_shape(self, shape: Shape, axes: Axes) -> Shape:
        return shape


@dataclass(frozen=True)
class PerChannel(Granularity):
    """A scale for each channel kept: weight ``(64, 3, 7, 7) → (64, 1, 1, 1)``.

    Tokens ``(8, 196, 192) → (1, 1, 192)``; a vector ``(192,) → (1,)``, as it has no channel axis.
    """

    def group_shape(self, shape: Shape, axes: Axes) -> Shape:
        return tuple(1 if i == axes.channel else size for i, size in enumerate(shape))


@dataclass(frozen=True)
class PerToken(Granularity):
    """A scale for each position: tokens ``(8, 196, 192) → (8, 196, 1)``.

    Image ``(8, 3, 9, 9) → (8, 1, 9, 9)``; weight ``(64, 3, 7, 7) → (64, 1, 1, 1)``, as for ``channel``.
    """

    def group_shape(self, shape: Shape, axes: Axes) -> Shape:
        return tuple(1 if i in axes.tokens else size for i, size in enumerate(shape))


@dataclass(frozen=True)
class PerChunk(Granularity):
    """A scale for ``size`` consecutive elements of the reduction axis: ``(4, 300)``, 128 → ``(4, 3)``.

    Every other axis is kept. Raises ``ModeError`` for a size below 1.
    """

    size: int

    def __post_init__(self) -> None:
        _check_size("chunk", self.size)

    def group_shape(self, shape: Shape, axes: Axes) -> Shape:
        return tuple(min(self.size, n) if i == axes.reduction else 1 for i, n in enumerate(shape))


@dataclass(frozen=True)
class PerBlock(Granularity):
    """A scale for ``rows × columns`` elements: weight ``(256, 300)``, 128×128 → ``(2, 3)``.

    Columns run along the reduction axis, rows along the output channels of a weight or the last other
    axis of activations. Every other axis is kept. Raises ``ModeError`` for a size below 1.
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        _check_size("block", self.rows)
        _check_size("block", self.columns)

    def group_shape(self, shape: Shape, axes: Axes) -> Shape:
        sizes = {axes.rows: self.rows, axes.reduction: self.columns}
        return tuple(min(sizes.get(i, 1), n) for i, n in enumerate(shape))


def _check_size(kind: str, size: int) -> None:
    if size < 1:
        raise ModeError(
            f"A {kind} holds at least 1 element along each axis; got {size}. Use for instance {kind}"
            f"{'128' if kind == 'chunk' else '128x128'}."
        )
