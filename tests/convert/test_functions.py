"""Which functions have a twin, and which change what they are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qbench_suite import LayerError, Manager
from qbench_suite.convert.functions import FunctionTable, changed_tensor, reads_floats, tensors_in

X, Y = torch.zeros(2), torch.ones(2)


@pytest.mark.parametrize(
    ("function", "twin", "kind"),
    [
        (torch.add, "TinyAdd", "add"),
        (torch.Tensor.add_, "TinyAdd", "add"),
        (torch.bmm, "TinyMatmul", "matmul"),
        (F.relu, "TinyRelu", "relu"),
        (torch.Tensor.sigmoid_, None, "sigmoid"),
        (torch.Tensor.__setitem__, None, "setitem"),
        (torch.Tensor.size, None, ""),
        (torch.Tensor.shape.__get__, None, ""),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)) or "none",
)
def test_function_has_a_kind_and_perhaps_a_twin(
    manager: Manager, function: Callable[..., Any], twin: str | None, kind: str
) -> None:
    table = FunctionTable(manager)
    found = table.twin(function)
    assert (found.__name__ if found else None) == twin
    assert table.kind(function) == kind


def test_two_twins_of_a_function_are_refused_by_their_owners(
    make_manager: Callable[..., Manager],
) -> None:
    base = next(e.function for e in make_manager().functions if e.name == "TinyAdd")
    manager = make_manager(functions=[type("Rival", (base,), {"functions": ("torch.add",)})])
    with pytest.raises(LayerError, match=r"add is claimed by .*Rival of .*TinyAdd of"):
        FunctionTable(manager)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "changes"),
    [
        (torch.Tensor.add, (X, Y), {}, None),
        (torch.Tensor.add_, (X, Y), {}, X),
        (torch.Tensor.__iadd__, (X, Y), {}, X),
        (torch.Tensor.__setitem__, (X, 0, 1), {}, X),
        (torch.Tensor.__invert__, (X,), {}, None),
        (torch.Tensor.__rsub__, (X, 1), {}, None),
        (F.relu, (X,), {"inplace": True}, X),
        (F.relu, (), {"input": X, "inplace": True}, X),
        (F.relu, (X,), {"inplace": False}, None),
        (F.relu, (X, True), {}, X),
        (F.relu, (X, False), {}, None),
        (F.leaky_relu, (X, 0.1, True), {}, X),
        (torch.relu, (X,), {}, None),
        (torch.add, (X, X), {"out": Y}, Y),
        (torch.add, (X, X), {"out": None}, None),
    ],
    ids=[
        *("add", "add_", "iadd", "setitem", "invert", "rsub", "relu", "keyword", "not"),
        *("second", "not by position", "third", "builtin", "out", "no"),
    ],
)
def test_changed_tensor(
    function: Callable[..., Any], args: Any, kwargs: Any, changes: Tensor | None
) -> None:
    assert changed_tensor(function, args, kwargs) is changes


def test_tensors_are_found_in_lists_and_dicts() -> None:
    assert [id(t) for t in tensors_in((X, [Y, (X,)], {"a": Y}, 3, "x"))] == [*map(id, (X, Y, X, Y))]


@pytest.mark.parametrize(
    ("args", "kwargs", "floats"),
    [
        ((X,), {}, True),
        (([X, X],), {}, True),
        (("ij->i", X), {}, True),
        ((), {"input": X}, True),
        ((torch.arange(3), 2.0), {}, False),
        ((3, None), {"dim": 1}, False),
    ],
    ids=["tensor", "list", "second", "keyword", "integers", "none"],
)
def test_reads_floats(args: Any, kwargs: Any, floats: bool) -> None:
    assert reads_floats(args, kwargs) is floats
