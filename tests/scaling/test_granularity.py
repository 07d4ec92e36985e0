"""Granularity: the shape of scales, with the examples of the docstrings."""

from __future__ import annotations

import pytest

from qbench_suite import (
    Axes,
    Granularity,
    ModeError,
    PerBlock,
    PerChannel,
    PerChunk,
    PerTensor,
    PerToken,
)
from qbench_suite.scaling.pieces import scale_shape

Shape = tuple[int, ...]


def scales(granularity: Granularity, shape: Shape, axes: Axes) -> Shape:
    """Shape of the scale tensor."""
    return scale_shape(shape, granularity.group_shape(shape, axes))


@pytest.mark.parametrize(
    ("granularity", "shape", "expected"),
    [
        (PerTensor(), (64, 3, 7, 7), (1, 1, 1, 1)),
        (PerTensor(), (192,), (1,)),
        (PerTensor(), (), ()),
        (PerChannel(), (64, 3, 7, 7), (64, 1, 1, 1)),
        (PerChannel(), (10, 192), (10, 1)),
        (PerChannel(), (192,), (1,)),
        (PerToken(), (10, 192), (10, 1)),
        (PerToken(), (192,), (1,)),
        (PerChunk(128), (4, 300), (4, 3)),
        (PerChunk(128), (64, 300, 3, 3), (64, 3, 3, 3)),
        (PerChunk(128), (64, 3, 7, 7), (64, 1, 7, 7)),
        (PerChunk(128), (300,), (3,)),
        (PerBlock(128, 128), (256, 300), (2, 3)),
        (PerBlock(128, 64), (256, 300, 3, 3), (2, 5, 3, 3)),
        (PerBlock(128, 128), (300,), (3,)),
        (PerBlock(128, 128), (), ()),
    ],
    ids=str,
)
def test_scales_of_weights(granularity: Granularity, shape: Shape, expected: Shape) -> None:
    assert scales(granularity, shape, Axes.weight(len(shape))) == expected


@pytest.mark.parametrize(
    ("granularity", "shape", "expected"),
    [
        (PerTensor(), (8, 196, 192), (1, 1, 1)),
        (PerTensor(), (), ()),
        (PerChannel(), (8, 196, 192), (1, 1, 192)),
        (PerChannel(), (8, 3, 9, 9), (1, 3, 1, 1)),
        (PerChannel(), (), ()),
        (PerChannel(), (192,), (1,)),
        (PerToken(), (8, 196, 192), (8, 196, 1)),
        (PerToken(), (8, 3, 9, 9), (8, 1, 9, 9)),
        (PerToken(), (192,), (1,)),
        (PerToken(), (), ()),
        (PerChunk(128), (8, 196, 192), (8, 196, 2)),
        (PerChunk(2), (8, 3, 9, 9), (8, 2, 9, 9)),
        (PerChunk(32), (100,), (4,)),
        (PerChunk(32), (), ()),
        (PerBlock(4, 64), (8, 196, 192), (8, 49, 3)),
        (PerBlock(4, 2), (8, 3, 9, 9), (8, 2, 9, 3)),
        (PerBlock(4, 64), (100,), (2,)),
    ],
    ids=str,
)
def test_scales_of_activations(granularity: Granularity, shape: Shape, expected: Shape) -> None:
    assert scales(granularity, shape, Axes.features(len(shape))) == expected


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(), PerToken(), PerChunk(3)])
def test_empty_axes_have_no_groups_where_they_are_shared(granularity: Granularity) -> None:
    assert 0 in scales(granularity, (0, 5), Axes.weight(2))


@pytest.mark.parametrize("size", [0, -1])
def test_empty_groups_are_refused_with_a_remedy(size: int) -> None:
    with pytest.raises(ModeError, match=rf"chunk holds at least 1 .*got {size}.*chunk128"):
        PerChunk(size)
    with pytest.raises(ModeError, match=rf"block holds at least 1 .*got {size}.*block128x128"):
        PerBlock(4, size)
    with pytest.raises(ModeError, match=rf"got {size}"):
        PerBlock(size, 4)
