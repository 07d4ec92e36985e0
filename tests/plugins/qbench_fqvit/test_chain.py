"""The chain: only a block that a block alone reads passes codes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from qbench_fqvit import convert


@dataclass
class Pair:
    """An output that is no tuple."""

    first: Tensor
    second: Tensor


class Two(nn.Module):
    """Two blocks; ``end`` makes the output of what both give."""

    def __init__(self, zoo: Any, end: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second = (zoo.randomized(Block(24, 2), seed) for seed in range(2))
        self.end, self.kept = end, torch.zeros(())

    def forward(self, x: Tensor) -> Any:
        first = self.first(x)
        return self.end(first, self.second(first))


def rims(model: nn.Module, x: Tensor) -> list[list[bool]]:
    """Whether each of the two blocks takes floats, and gives them."""
    module: Any = convert(model, [x, x]).module
    return [module.first.rim.tolist(), module.second.rim.tolist()]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 9, 24, generator=torch.Generator().manual_seed(0))


READS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "data": lambda first, second: second + first.data,
    "transposed": lambda first, second: second + first.mT.mT,
    "mean": lambda first, second: second + first.mean(),
    "dtype": lambda first, second: second.to(first.dtype),
    "tuple": lambda first, second: (second, first),
    "mapping": lambda first, second: {"out": second, "all": [first]},
    "object": Pair,
}


@pytest.mark.parametrize("end", READS.values(), ids=READS)
def test_an_output_that_is_read_elsewhere_or_returned_is_float(
    zoo: Any, x: Tensor, end: Callable[[Tensor, Tensor], Any]
) -> None:
    assert rims(Two(zoo, end), x) == [[True, True], [True, True]]


def test_an_output_that_the_model_keeps_is_float(zoo: Any, x: Tensor) -> None:
    model = Two(zoo, lambda first, second: second)

    def keep(first: Tensor, second: Tensor) -> Tensor:
        model.kept = first
        return second

    model.end = keep
    assert rims(model, x) == [[True, True], [True, True]]


def test_the_shape_of_an_output_may_be_read(zoo: Any, x: Tensor) -> None:
    def end(first: Tensor, second: Tensor) -> Tensor:
        assert first.shape == first.size()
        assert first.ndim == first.dim()
        return second.reshape(first.shape).to(first.device)

    assert rims(Two(zoo, end), x) == [[True, False], [False, True]]


def test_returned_outputs_are_those_of_the_float_model(zoo: Any, x: Tensor) -> None:
    model = Two(zoo, READS["tuple"])
    for exact, found in zip(model(x), convert(model, [x]).module(x), strict=True):
        assert found.dtype == torch.float32
        assert zoo.sqnr_db(exact, found) > 20
