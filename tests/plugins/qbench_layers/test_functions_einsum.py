"""Einsum equations: which axes they sum over, against the product that NumPy computes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbench_layers.functions.einsum import Product, parse


@pytest.mark.parametrize(
    ("equation", "ranks", "summed", "free"),
    [
        ("bqd,bkd->bqk", (3, 3), (2, 2), (1, 1)),
        ("b q h d, b k h d -> b h q k", (4, 4), (3, 3), (1, 1)),
        ("...ij,...jk->...ik", (4, 3), (3, 1), (2, 2)),
        ("...ij,jk", (3, 2), (2, 0), (1, 1)),
        ("ij,jk", (2, 2), (1, 0), (0, 1)),
        ("i...j,j->i...", (4, 1), (3, 0), (2, None)),
        ("blhk,bpk->blhp", (4, 3), (3, 2), (2, 1)),
    ],
)
def test_the_axes_of_a_product(
    equation: str,
    ranks: tuple[int, int],
    summed: tuple[int, int],
    free: tuple[int | None, int | None],
) -> None:
    assert parse(equation, *ranks) == Product(summed, free)


@pytest.mark.parametrize(
    ("equation", "ranks", "reason"),
    [
        ("ij->ji", (2, 2), "1 operands, not 2"),
        ("i,j,k->ijk", (1, 1), "3 operands, not 2"),
        ("ii,ij->j", (2, 2), "takes a diagonal"),
        ("i,j->ij", (1, 1), "sums over 0 axes"),
        ("ij,ij->ij", (2, 2), "sums over 0 axes"),
        ("ij,ij->", (2, 2), "sums over 2 axes"),
        ("...i,...j->...ij", (3, 3), "sums over 0 axes"),
    ],
)
def test_what_is_no_product_says_why(equation: str, ranks: tuple[int, int], reason: str) -> None:
    found = parse(equation, *ranks)
    assert isinstance(found, str)
    assert equation in found
    assert reason in found


@given(st.data())
def test_summed_axes_are_those_whose_length_the_result_lacks(data: st.DataObject) -> None:
    """Each label has a length of its own, a prime; NumPy's result then tells what was summed."""
    labels = data.draw(st.permutations("abcde"))
    lengths = dict(zip("abcde", (2, 3, 5, 7, 11), strict=True))
    left = "".join(data.draw(st.lists(st.sampled_from(labels), unique=True, min_size=1)))
    right = "".join(data.draw(st.lists(st.sampled_from(labels), unique=True, min_size=1)))
    both = [label for label in left if label in right]
    output = "".join(label for label in labels if label in left + right and label not in both[:1])
    x = np.ones([lengths[label] for label in left])
    y = np.ones([lengths[label] for label in right])
    result = np.einsum(f"{left},{right}->{output}", x, y)
    found = parse(f"{left},{right}->{output}", x.ndim, y.ndim)
    if not both:
        assert isinstance(found, str)
        return
    assert isinstance(found, Product)
    (lost,) = (set(x.shape) & set(y.shape)) - set(result.shape)
    assert (x.shape[found.summed[0]], y.shape[found.summed[1]]) == (lost, lost)
    for operand, axis, other in ((x, found.free[0], y), (y, found.free[1], x)):
        own = set(operand.shape) - set(other.shape)
        assert axis is None if not own else operand.shape[axis] in own  # type: ignore[index]
