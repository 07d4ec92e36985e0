"""Exact products in torch's own operations: on any device, with and without VNNI."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from qbench_fqvit.ops import products

SHAPES = [
    (1, 1, 1),
    (1, 5, 3),
    (16, 8, 8),
    (17, 9, 7),
    (40, 64, 24),
    (0, 8, 8),
    (4, 0, 8),
    (4, 8, 0),
]


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
@pytest.mark.parametrize("vnni", [True, False])
def test_product(
    values: Any,
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
    inputs: int,
    outputs: int,
    dtype: torch.dtype,
    vnni: bool,
) -> None:
    # Torch's own product is right without VNNI as well since torch 2.6, which is required here.
    monkeypatch.setattr(products, "_has_vnni", lambda: vnni)
    make = values(0)
    x, weight = (
        make.codes("random", rows, inputs, dtype=dtype),
        make.codes("lowest", outputs, inputs),
    )
    got = products.product(x, weight)
    assert got.dtype is torch.int32
    assert torch.equal(got, (x.long() @ weight.long().t()).int())


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_cuda_is_given_sizes_that_it_takes(
    values: Any, monkeypatch: pytest.MonkeyPatch, rows: int, inputs: int, outputs: int
) -> None:
    plain = torch._int_mm

    def strict(left: Tensor, right: Tensor) -> Tensor:
        assert left.shape[0] > 16
        assert left.shape[1] % 8 == right.shape[1] % 8 == 0
        return plain(left, right)

    monkeypatch.setattr(torch, "_int_mm", strict)
    make = values(1)
    x, weight = make.codes("random", rows, inputs), make.codes("random", outputs, inputs)
    got = products._cuda_product(x, weight)
    assert torch.equal(got, (x.long() @ weight.long().t()).int())


@pytest.mark.parametrize("batch", [0, 2])
def test_heads_one_after_the_other(values: Any, batch: int) -> None:
    make = values(2)
    codes = make.codes("random", batch, 3, 5, 7, dtype=torch.uint8)
    v = make.codes("random", batch, 3, 4, 7)
    got = products.one_by_one(codes, v)
    assert torch.equal(got, (codes.long() @ v.long().mT).int())
    assert torch.equal(got, products.batched(codes, v))
