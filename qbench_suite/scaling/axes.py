"""Axes: what each axis of a tensor means to the layer that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from qbench_suite.errors import ModeError


@dataclass(frozen=True)
class Axes:
    """The meaning of a tensor's axes, from which a granularity lays out its scales.

    Every axis named here is one that may be *kept* (have scales of its own); what is not kept shares
    a scale. Axis numbers are not negative.
    """

    #: Axis kept by ``channel``; None for a vector, whose only axis is the one summed over.
    channel: int | None
    #: Axis that the layer sums over: chunks run along it. None for a scalar.
    reduction: int | None
    #: Axis along which the rows of a block run; None if the tensor has no second axis.
    rows: int | None
    #: Axes kept by ``token``.
    tokens: tuple[int, ...]

    @classmethod
    def weight(cls, rank: int) -> Self:
        """Weights (out, in, …): output channels are kept, chunks run along ``in``.

        A vector (rank 1: γ of a norm, a layer scale) has no output channel; it is chunked.
        """
        if rank <= 1:
            return cls(None, 0 if rank else None, None, ())
        return cls(channel=0, reduction=1, rows=0, tokens=(0,))

    @classmethod
    def of_shape(cls, shape: tuple[int, ...], axis: int | None = None) -> Self:
        """``features``, but for a single feature, as of a gray image: chunks run along the last axis.

        A chunk or a token of one element would have a scale of its own, and no error.
        """
        rank = len(shape)
        axes = cls.features(rank, axis)
        if rank < 2 or axes.reduction is None or shape[axes.reduction] != 1:
            return axes
        kept = tuple(range(rank - 1))
        return cls(axes.channel, reduction=rank - 1, rows=rank - 2, tokens=kept)

    @classmethod
    def features(cls, rank: int, axis: int | None = None) -> Self:
        """Activations whose features lie on ``axis``; by default 1 for images (rank 4), else the last.

        ``channel`` keeps the feature axis and chunks run along it; ``token`` keeps all the others.
        """
        if rank == 0:
            return cls(None, None, None, ())
        if axis is None:
            axis = 1 if rank == 4 else rank - 1
        if not -rank <= axis < rank:
            raise ModeError(
                f"The feature axis must be one of the tensor's; got axis {axis} of a tensor of rank "
                f"{rank}. Pass an axis in {-rank} … {rank - 1}."
            )
        axis %= rank
        others = tuple(i for i in range(rank) if i != axis)
        # A lone vector kept along its features would have a scale an element, and no error.
        channel = axis if others else None
        return cls(channel, reduction=axis, rows=others[-1] if others else None, tokens=others)
