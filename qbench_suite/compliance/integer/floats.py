"""What counts as an integer, and what an operation is made of."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

#: Elements of these types are integers; quantized types carry float scales, so they are not.
INTEGERS = frozenset(
    {
        torch.bool,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    }
)
#: Operators of torch itself; of any other namespace nobody knows what runs below.
_TORCHS_OWN = frozenset({"aten", "prims", "prim", "higher_order", "_operator", "inductor"})


def float_of(value: object) -> str:
    """What is float about ``value``, a tensor or a Python number; empty where nothing is."""
    if isinstance(value, Tensor):
        return "" if value.dtype in INTEGERS else f"a {name_of(value.dtype)} tensor"
    if isinstance(value, float | complex | torch.SymFloat):
        return f"the Python {type(value).__name__} {value}"
    return ""


def floats_among(values: object) -> list[str]:
    """What is float among the leaves of nested lists, tuples and dicts, each once."""
    return list(dict.fromkeys(filter(None, map(float_of, tree_leaves(values)))))


def why_float(arguments: Iterable[str], results: Iterable[str]) -> str:
    """The floats of an operation in words; empty without any."""
    parts = (("takes", list(arguments)), ("gives", list(results)))
    return ", ".join(f"{verb} {' and '.join(found)}" for verb, found in parts if found)


def name_of(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def is_opaque(operation: object) -> bool:
    """Whether ``operation`` is no operator of torch itself, so that its kernel may compute anything."""
    namespace = getattr(operation, "namespace", None)
    return namespace is not None and namespace not in _TORCHS_OWN
