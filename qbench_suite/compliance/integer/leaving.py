"""How elements get where no operation is seen: to Python, to another thread, to native code."""

from __future__ import annotations

import _thread
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils import _python_dispatch
from torch.utils._pytree import tree_leaves

#: Hands out a pointer to the elements, as native code takes it.
POINTER = "Tensor.data_ptr"
#: Methods by which the elements of a tensor, or a pointer to them, leave it.
_METHODS = frozenset(
    {
        "__array__",
        "__bool__",
        "__dlpack__",
        "__format__",
        "__index__",
        "__int__",
        "__repr__",
        "apply_",
        "data_ptr",
        "item",
        "map2_",
        "map_",
        "numpy",
        "tolist",
        "untyped_storage",
    }
)
#: Functions of C that no method of a tensor tells of.
_FUNCTIONS = {
    id(torch._C._to_dlpack): "torch.utils.dlpack.to_dlpack",
    # Which of them starts a thread depends on the version of Python.
    **{
        id(getattr(_thread, name)): "a new thread"
        for name in ("start_new_thread", "start_joinable_thread")
        if hasattr(_thread, name)
    },
}
#: Functions of Python that stop whoever looks.
_BLINDING = {inspect.unwrap(_python_dispatch._disable_current_modes).__code__}


def method_that_leaves(function: Callable[..., Any]) -> str:
    """``Tensor.item`` for that method; empty for one by which no element leaves."""
    if getattr(function, "__self__", None) is Tensor.__cuda_array_interface__:
        return "Tensor.__cuda_array_interface__"
    name = getattr(function, "__name__", "")
    return f"Tensor.{name}" if name in _METHODS else ""


def leaves_by_result(operator: Any, arguments: object, result: object) -> bool:
    """Whether elements become a Python number, or the shape of ``result``."""
    if operator is torch.ops.aten.index.Tensor:
        masks = (torch.bool, torch.uint8)
        tensors = [leaf for leaf in tree_leaves(arguments)[1:] if isinstance(leaf, Tensor)]
        return any(index.dtype in masks for index in tensors)
    sized = torch.Tag.dynamic_output_shape in getattr(operator, "tags", ())
    return sized or isinstance(result, bool | int | float | complex)


def is_native(name: str) -> bool:
    """Whether ``name``, of what an audit calls opaque, leads to native code that is in a library."""
    return name == POINTER or not name.startswith(
        ("Tensor.", "aten.", "prims.", "a new ", "torch.")
    )


@contextmanager
def calls_that_leave(met: Callable[[str], None]) -> Iterator[None]:
    """Within it ``met`` is told of calls in this thread that neither operation nor method shows."""

    def look(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call" and id(argument) in _FUNCTIONS:
            met(_FUNCTIONS[id(argument)])
        elif event == "call" and frame.f_code in _BLINDING:
            met("torch.utils._python_dispatch._disable_current_modes")

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(before)
