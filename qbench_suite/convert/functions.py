"""FunctionTable: which functions have a twin, what their calls are named after, what they change."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from qbench_suite.errors import LayerError
from qbench_suite.layers import QuantFunction, resolve_function
from qbench_suite.manager import Manager

Function = Callable[..., Any]

#: Functions that only say something about a tensor: most calls of a forward, and never a site.
_METADATA = frozenset(
    {"__get__", "__set__", "__delete__", "__len__", "__bool__", "__repr__", "__format__"}
    | {"size", "dim", "ndimension", "numel", "nelement", "stride", "element_size", "item"}
    | {"storage_offset", "is_contiguous", "is_floating_point", "is_complex", "tolist"}
    | {"_set_grad_enabled", "get_device", "data_ptr", "untyped_storage"}
)


class FunctionTable:
    """Functions as torch hands them to a function mode, with their kinds and twins.

    Raises ``LayerError`` where two plugins claim one function.
    """

    def __init__(self, manager: Manager) -> None:
        self._twins: dict[Function, type[QuantFunction]] = {}
        self._kinds: dict[Function, str] = {}
        for entry in manager.functions:
            for function in filter(None, map(resolve_function, entry.function.functions)):
                self._claim(function, entry.function, manager)

    def _claim(self, function: Function, twin: type[QuantFunction], manager: Manager) -> None:
        rival = self._twins.setdefault(function, twin)
        if rival is not twin:
            owners = " and ".join(
                f"{t.__name__} of {manager.functions.owner(t.__name__)}" for t in (rival, twin)
            )
            raise LayerError(
                f"A function has one quantized twin; {_name(function)} is claimed by {owners}. "
                "Disable one plugin with --qbench-disable-plugin, or name other functions."
            )
        self._kinds[function] = twin.kind

    def twin(self, function: Function) -> type[QuantFunction] | None:
        """The class that replaces calls of ``function``; None where nobody registered one."""
        return self._twins.get(function)

    def kind(self, function: Function) -> str:
        """What call sites of ``function`` are named after; empty where it only asks for metadata.

        The twin's kind, else the function's own name without the underscores around it.
        """
        kind = self._kinds.get(function)
        if kind is None:
            name = _name(function)
            kind = "" if name in _METADATA else name.strip("_")
            self._kinds[function] = kind
        return kind


def _name(function: Function) -> str:
    return getattr(function, "__name__", type(function).__name__)


#: Operators that write to their first operand.
_WRITING = frozenset(
    {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__"}
    | {"__ipow__", "__imatmul__", "__iand__", "__ior__", "__ixor__"}
)


def changed_tensor(
    function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor | None:
    """The tensor that this call writes to, as ``x.add_(y)`` and ``relu(x, inplace=True)`` do."""
    if isinstance(out := kwargs.get("out"), Tensor):
        return out
    name = _name(function)
    ends = name.endswith("_") and not name.endswith("__")
    if ends or name in _WRITING or _in_place(function, args, kwargs):
        target = args[0] if args else kwargs.get("input")
        return target if isinstance(target, Tensor) else None
    return None


def _in_place(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    position = _position_of_inplace(function)
    given = args[position] if position is not None and position < len(args) else None
    return bool(kwargs.get("inplace", given))


@functools.cache
def _position_of_inplace(function: Function) -> int | None:
    """Which argument of ``function`` is ``inplace``; None where none is, or it does not say."""
    try:
        names = [*inspect.signature(function).parameters]
    except (ValueError, TypeError):
        return None
    return names.index("inplace") if "inplace" in names else None


def tensors_in(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among ``values``, and in the lists, tuples and dicts there."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(value)
        elif isinstance(value, dict):
            found += tensors_in(value.values())
    return found


def reads_floats(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a tensor of floating point numbers is among the arguments."""
    for value in args:
        if isinstance(value, Tensor):
            if value.is_floating_point():
                return True
        elif isinstance(value, (list, tuple)) and reads_floats(tuple(value), {}):
            return True
    return bool(kwargs) and reads_floats(tuple(kwargs.values()), {})
