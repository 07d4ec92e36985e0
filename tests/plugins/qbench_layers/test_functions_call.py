"""Arguments by name, whatever way they are passed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qbench_layers.functions.call import Call


def call(*args: Any, **kwargs: Any) -> Call:
    return Call(torch.add, ("input", "other"), args, kwargs)


@pytest.mark.parametrize(
    "made",
    [
        call(1, 2),
        call(1, other=2),
        call(input=1, other=2),
        call(x=1, x2=2),
        call(other=2, a=1),
        call(x1=1, x2=2),
        call(other=2, self=1),
    ],
)
def test_every_spelling_finds_and_replaces_its_arguments(made: Call) -> None:
    assert (made.get("input"), made.get("other")) == (1, 2)
    changed = made.put("other", 7).put("input", 3)
    assert (changed.get("input"), changed.get("other")) == (3, 7)
    assert len(changed.args) == len(made.args)
    assert changed.kwargs.keys() == made.kwargs.keys()
    assert (made.get("input"), made.get("other")) == (1, 2)


def test_an_argument_that_was_not_passed_has_its_default() -> None:
    made = call(1)
    assert made.get("other") is None
    assert made.get("alpha", 1) == 1


def test_numpy_names_of_torch_are_understood() -> None:
    x = torch.arange(6.0).view(2, 3)
    made = Call(torch.softmax, ("input", "dim"), (), {"input": x, "axis": 0})
    assert made.get("dim") == 0
    assert torch.equal(made.run(), torch.softmax(x, 0))
