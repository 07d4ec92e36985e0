"""Kernels of custom operators: which of them are Python, so that what they call can be seen."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


def python_kernel(operator: Any, operands: object) -> Any:
    """The key by which ``operator.redispatch`` runs its Python kernel; None where that is compiled.

    ``operands``: nested arguments; the kernel is the one for the device of the first tensor.
    """
    devices = [leaf.device.type for leaf in tree_leaves(operands) if isinstance(leaf, Tensor)]
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(devices[0]) if devices else None
    # What torch says of registrations is for people: where it says it otherwise, nothing is entered.
    try:
        table = torch._C._dispatch_dump_table(operator.name())
    except (AttributeError, RuntimeError):
        return None
    where = re.search(rf"^{key}: (?:registered at )?(.*?\.py):\d+", table, re.MULTILINE)
    return torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, str(key))) if where else None
