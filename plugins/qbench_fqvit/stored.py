"""Stored: what the state dict of an integer block may hold, checked before any of it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import torch
from torch import Tensor

from qbench_fqvit.layout import SHIFTS, Layout
from qbench_suite import ConversionError


def check(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], layout: Layout) -> None:
    """Raise ``ConversionError`` where a block of ``layout`` cannot compute with ``state``.

    ``expected``: the state dict of such a block, of which only names, dtypes and shapes are looked
    at. Integers are of the very type of the block; scales may be of any float type.
    """
    check_names(set(state) & set(expected), set(expected))
    for name, wanted in expected.items():
        _check_kind(name, state[name], wanted)
    for name in expected:
        _check_values(name, state[name], layout)


def check_names(found: set[str], expected: set[str]) -> None:
    """Raise ``ConversionError`` where names are missing, or are there that no integer block has."""
    if missing := sorted(expected - found):
        _refuse(f"it holds {len(expected)} tensors", f"none named {_some(missing)}")
    if more := sorted(found - expected):
        _refuse(f"it holds {len(expected)} tensors alone", f"also {_some(more)}")


def _check_kind(name: str, found: object, wanted: Tensor) -> None:
    if not isinstance(found, Tensor):
        _refuse(f"{name!r} is a tensor", type(found).__name__)
    scales = wanted.is_floating_point()
    fits = found.is_floating_point() if scales else found.dtype == wanted.dtype
    if not fits:
        _refuse(f"{name!r} is of {'a float type' if scales else wanted.dtype}", str(found.dtype))
    if found.shape != wanted.shape:
        _refuse(f"{name!r} is of shape {tuple(wanted.shape)}", str(tuple(found.shape)))


def _check_values(name: str, found: Tensor, layout: Layout) -> None:
    if found.is_floating_point():
        if not bool((found.isfinite() & (found > 0)).all()):
            _refuse(f"scales are positive and finite, {name!r} too", f"a least {_least(found):g}")
    elif name.endswith(".shift"):
        low, high = (0, layout.max_exponent) if name.startswith("norm") else SHIFTS
        least, most = int(found.min()), int(found.max())
        if not low <= least <= most <= high:
            _refuse(f"{name!r} is within {low} … {high}", f"{least} … {most}")
    elif name == "softmax.exp_table":
        first, last = int(found[0]), int(found[-1])
        falls = bool((found[1:] <= found[:-1]).all())
        if not (falls and last >= 0 and 0 < first * layout.max_tokens < 2**31):
            _refuse(
                f"{name!r} falls from a positive value, of which {layout.max_tokens} sum below 2³¹, "
                "to one that is not negative",
                f"{first} … {last}",
            )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{', '.join(names[:4])}{more}"


def _least(values: Tensor) -> float:
    return float(torch.where(values.isfinite(), values, -torch.inf).min())


def _refuse(invariant: str, received: str) -> NoReturn:
    raise ConversionError(
        f"An integer block loads what an integer block saved: {invariant}; got {received}. Give the "
        "state dict of one QuantTimmVitBlock of the same layout, whole and unchanged."
    )
