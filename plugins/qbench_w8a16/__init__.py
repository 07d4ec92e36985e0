"""Linear layers with integer weights and float activations: W8A16 and W4A16."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from qbench_suite import LinearEntry, hookimpl

if TYPE_CHECKING:
    from torch import nn

    from qbench_suite import QuantModule
    from qbench_w8a16.layer import Storage as Storage
    from qbench_w8a16.layer import W8A16LinearLayer as W8A16LinearLayer
    from qbench_w8a16.replacing import replace_linears as replace_linears

#: Public name → its module, imported when first used: listing the entries needs no kernels.
_HOME = {"Storage": "layer", "W8A16LinearLayer": "layer", "replace_linears": "replacing"}

__all__ = ["Storage", "W8A16LinearLayer", "replace_linears"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def _build(linear: nn.Linear, bits: int) -> nn.Module:
    from qbench_w8a16.layer import W8A16LinearLayer

    return W8A16LinearLayer.from_float(linear, bits=bits)


def _adopt(module: QuantModule, bits: int) -> nn.Module:
    from qbench_w8a16.replacing import adopt

    return adopt(module, bits)


@hookimpl
def qbench_register_linears(register: Callable[[LinearEntry], None]) -> None:
    """The two widths of ``W8A16LinearLayer``."""
    dtypes = ("float32", "bfloat16", "float16")
    register(
        LinearEntry(
            name="w8a16",
            build=partial(_build, bits=8),
            adopt=partial(_adopt, bits=8),
            format="int8",
            dtypes=dtypes,
            description="INT8 weights, a scale for each output; fused dequantization",
            default=True,
        )
    )
    register(
        LinearEntry(
            name="w4a16",
            build=partial(_build, bits=4),
            adopt=partial(_adopt, bits=4),
            format="int4",
            dtypes=dtypes,
            description="INT4 weights, two a byte, a scale for 128 of them; fused dequantization",
            default=True,
        )
    )
