"""Multiply-adds of operations, against counts by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qbench_suite.convert.operations import (
    Operations,
    Product,
    Storages,
    computes,
    decomposed,
    products,
)


def seen(run: Callable[[], object]) -> tuple[list[Product], bool]:
    """The products of what ``run`` does, and whether it computes at all."""
    found: list[Product] = []
    computed: list[bool] = []

    def see(function: Any, args: Any, kwargs: Any, result: Any) -> None:
        found.extend(products(function, args, kwargs, result))
        computed.append(computes(function, args, kwargs, result))

    with decomposed(), Operations(see):
        run()
    return found, any(computed)


A, B = torch.randn(2, 3, 4), torch.randn(2, 4, 5)
IMAGE = torch.randn(2, 4, 6, 6)
COUNTS: dict[str, tuple[Callable[[], object], int]] = {
    "mm": (lambda: A[0] @ B[0], 3 * 4 * 5),
    "bmm": (lambda: A @ B, 2 * 3 * 4 * 5),
    "baddbmm": (lambda: torch.baddbmm(torch.zeros(2, 3, 5), A, B), 2 * 3 * 4 * 5),
    "linear": (lambda: F.linear(A, torch.randn(7, 4), torch.randn(7)), 2 * 3 * 4 * 7),
    "mv": (lambda: A[0] @ torch.randn(4), 3 * 4),
    "dot": (lambda: torch.randn(6) @ torch.randn(6), 6),
    "einsum": (lambda: torch.einsum("bij,bjk->bik", A, B), 2 * 3 * 4 * 5),
    "conv": (lambda: F.conv2d(IMAGE, torch.randn(8, 4, 3, 3)), 2 * 8 * 4 * 4 * 4 * 9),
    "depthwise": (lambda: F.conv2d(IMAGE, torch.randn(4, 1, 3, 3), groups=4), 2 * 4 * 16 * 9),
    "attention": (
        lambda: F.scaled_dot_product_attention(IMAGE, IMAGE, IMAGE[..., :3]),
        2 * 4 * 6 * 6 * (6 + 3),
    ),
    "relu": (lambda: IMAGE.relu(), 0),
    "mean": (lambda: IMAGE.mean(), 0),
}


@pytest.mark.parametrize("name", COUNTS)
def test_multiply_adds_are_those_counted_by_hand(name: str) -> None:
    run, count = COUNTS[name]
    found, computed = seen(run)
    assert sum(product.multiply_adds for product in found) == count
    assert computed


def test_inference_mode_hides_nothing() -> None:
    with torch.inference_mode():
        found, _ = seen(COUNTS["linear"][0])
    assert [product.multiply_adds for product in found] == [COUNTS["linear"][1]]


def test_operands_are_those_multiplied() -> None:
    weight, bias = torch.randn(5, 4), torch.randn(5)
    (product,), _ = seen(lambda: torch.addmm(bias, A[0], weight.t()))
    starts = [operand.untyped_storage().data_ptr() for operand in product.operands]
    assert starts == [A.untyped_storage().data_ptr(), weight.untyped_storage().data_ptr()]


@pytest.mark.parametrize(
    "run",
    [
        lambda: IMAGE.view(-1),
        lambda: IMAGE.permute(0, 2, 3, 1).contiguous(),
        lambda: torch.cat([IMAGE, IMAGE]),
        lambda: F.pad(IMAGE, (1, 1)),
        lambda: IMAGE.to(torch.float64),
        lambda: torch.zeros_like(IMAGE).fill_(2.0),
        lambda: torch.arange(4) + 1,
        lambda: IMAGE > 0,
    ],
    ids=["view", "permute", "cat", "pad", "cast", "fill", "whole numbers", "comparison"],
)
def test_what_only_moves_values_computes_nothing(run: Callable[[], object]) -> None:
    found, computed = seen(run)
    assert not found
    assert not computed


def test_views_share_what_is_said_of_their_memory() -> None:
    marked = Storages()
    x: Tensor = torch.randn(4, 4)
    marked.mark(x[1:])
    assert x in marked
    assert x.clone() not in marked
    marked.mark(x.t(), so=False)
    assert x not in marked
