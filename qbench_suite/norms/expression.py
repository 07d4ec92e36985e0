"""The name of a kernel in C++, in which placeholders stand for types of tensors and for sizes."""

from __future__ import annotations

import string
from typing import Any

import torch
from torch import Tensor

#: What an element of each dtype is called in CUDA C++.
CUDA_TYPES = {
    torch.float64: "double",
    torch.float32: "float",
    torch.float16: "__half",
    torch.bfloat16: "__nv_bfloat16",
    torch.float8_e4m3fn: "__nv_fp8_e4m3",
    torch.float8_e5m2: "__nv_fp8_e5m2",
    torch.bool: "bool",
    torch.int8: "signed char",
    torch.uint8: "unsigned char",
    torch.int32: "int",
    torch.int64: "long long",
}


def placeholders(expression: str) -> list[str]:
    """Names in braces of ``expression``, in order.

    Raises:
        ValueError: a brace is not closed, or holds anything but a name.
    """
    found = []
    for _, name, form, conversion in string.Formatter().parse(expression):
        if name is None:
            continue
        if not name.isidentifier() or form or conversion:
            raise ValueError(f"braces hold {name!r}, which is no name")
        found.append(name)
    return found


def word(value: Any) -> str:
    """What stands for ``value`` among template arguments: a type, ``void`` of None, an integer.

    Raises:
        ValueError: there is none for it.
    """
    if value is None:
        return "void"
    if isinstance(value, bool | int):
        return str(value).lower()
    dtype = value.dtype if isinstance(value, Tensor) else value
    if isinstance(dtype, torch.dtype) and dtype in CUDA_TYPES:
        return CUDA_TYPES[dtype]
    kind = dtype if isinstance(dtype, torch.dtype) else f"the {type(value).__name__} {value!r}"
    raise ValueError(f"it is {kind}, and a template takes a tensor's type or an integer")
