"""Pieces: views that hold whole groups, cover every element once, and copy nothing."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from qbench_suite.scaling.pieces import cut, is_dense, scale_shape

Shape = tuple[int, ...]
SHAPES: tuple[Shape, ...] = (
    (),
    (1,),
    (7,),
    (6, 1),
    (5, 8),
    (1, 9, 1),
    (2, 3, 4),
    (4, 3, 5, 2),
)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pieces_cover_every_element_once_and_hold_one_group_a_scale(shape: Shape) -> None:
    sizes = [sorted({1, min(2, n), min(3, n), n}) for n in shape]
    for order in itertools.permutations(range(len(shape))):
        memory = torch.arange(math.prod(shape)).reshape([shape[i] for i in order])
        x = memory.permute([order.index(i) for i in range(len(shape))])
        for group in itertools.product(*sizes):
            check(x, group)


def check(x: torch.Tensor, group: Shape) -> None:
    """Each element of ``x`` is its own index in memory, so pieces can be told apart by value."""
    shape = tuple(x.shape)
    group_of = {}
    for index in itertools.product(*map(range, shape)):
        group_of[int(x[index])] = tuple(i // g for i, g in zip(index, group, strict=True))
    seen: list[int] = []
    for piece in cut(shape, x.stride(), group):
        view = x.as_strided(piece.shape, piece.strides, piece.offset)
        seen += view.flatten().tolist()
        kept = [i for i in range(view.dim()) if i not in piece.reduced]
        rows = view.permute([*kept, *piece.reduced]).reshape(math.prod(piece.kept_shape), -1)
        expected = [range(first, last) for first, last in piece.groups]
        walked = itertools.product(*(expected[i] for i in piece.order))
        for row, walk in zip(rows.tolist(), walked, strict=True):
            groups = {group_of[element] for element in row}
            assert groups == {tuple(walk[piece.order.index(i)] for i in range(len(shape)))}
    assert sorted(seen) == sorted(group_of)


def test_few_shapes_of_view_serve_the_usual_tensors() -> None:
    def folded(shape: Shape, group: Shape) -> list[tuple[Shape, Shape]]:
        strides = torch.empty(shape).stride()
        return [(piece.shape, piece.reduced) for piece in cut(shape, strides, group)]

    assert folded((64, 3, 7, 7), (64, 3, 7, 7)) == [((9408,), (0,))]
    assert folded((64, 3, 7, 7), (1, 3, 7, 7)) == [((64, 147), (1,))]
    assert folded((8, 16, 9, 9), (8, 1, 9, 9)) == [((8, 16, 81), (0, 2))]
    assert folded((4, 300), (1, 128)) == [((4, 2, 128), (2,)), ((4, 44), (1,))]
    assert folded((4, 256), (1, 128)) == [((8, 128), (1,))]
    assert folded((4, 5), (1, 1)) == [((20,), ())]


def test_an_empty_tensor_has_no_pieces() -> None:
    assert cut((0, 3), (3, 1), (0, 3)) == ()
    assert scale_shape((0, 3), (0, 3)) == (0, 1)


def test_scale_shape_counts_the_last_shorter_group() -> None:
    assert scale_shape((4, 300), (1, 128)) == (4, 3)
    assert scale_shape((), ()) == ()


@pytest.mark.parametrize(
    ("shape", "strides", "dense"),
    [
        ((), (), True),
        ((3, 4), (4, 1), True),
        ((3, 4), (1, 3), True),
        ((1, 4), (99, 1), True),
        ((2, 3, 4, 5), (60, 1, 15, 3), True),
        ((3, 4), (8, 1), False),
        ((3, 4), (0, 1), False),
        ((3, 4), (8, 2), False),
        ((3, 4), (3, 1), False),
    ],
    ids=str,
)
def test_dense_means_a_block_of_memory_in_any_axis_order(
    shape: Shape, strides: Shape, dense: bool
) -> None:
    assert is_dense(shape, strides) is dense
