"""The oracle of a whole block: its state dict run in NumPy's and Python's integers.

It shares no operator, no window code and no module with the block it checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import numpy as np
from torch import Tensor

from qbench_fqvit.layout import Layout
from qbench_fqvit.ops import reference
from qbench_fqvit.ops.reference import Array


def run(state: Mapping[str, Tensor], codes: Array) -> Array:
    """What the block of ``state`` gives on ``codes`` (B, T, C) or (B, rows, columns, C)."""
    part = {name: value.cpu().numpy() for name, value in state.items()}
    size = dict(zip((f.name for f in fields(Layout)), part["header"].tolist(), strict=True))
    normal = _norm(part, "norm1", codes)
    qkv = _requantized(part, "qkv_act", _gemm(part, "qkv", _cut(size, normal)))
    split = qkv.reshape(*qkv.shape[:2], 3, size["heads"], size["head_dim"])
    context = reference.attention(
        split,
        part["softmax.multiplier"],
        size["score_shift"],
        part["softmax.exp_table"],
        part.get("softmax.bias"),
        part["context_act.multiplier"],
        part["context_act.shift"],
        ("uniform8", "lis4", "log8")[size["softmax_code"]],
    )
    bits = size["residual_bits"]
    whole = _joined(size, context, codes.shape)
    middle = _residual(part, "residual1", codes, _gemm(part, "proj", whole), bits)
    hidden = reference.requantize_lookup(
        _gemm(part, "fc1", _norm(part, "norm2", middle)),
        part["act.multiplier"],
        part["act.shift"],
        size["fc1_zero_point"],
        part["act.table"],
    )
    return _residual(part, "residual2", middle, _gemm(part, "fc2", hidden), bits)


def _norm(part: Mapping[str, Array], name: str, x: Array) -> Array:
    shift, gain, bias = (part[f"{name}.{field}"] for field in ("shift", "gain", "bias"))
    return reference.layer_norm(x, shift, gain, bias)


def _gemm(part: Mapping[str, Array], name: str, x: Array) -> Array:
    return reference.gemm(x, part[f"{name}.weight"], part[f"{name}.bias"])


def _requantized(part: Mapping[str, Array], name: str, acc: Array) -> Array:
    return reference.requantize(acc, part[f"{name}.multiplier"], part[f"{name}.shift"])


def _residual(part: Mapping[str, Array], name: str, x: Array, acc: Array, bits: int) -> Array:
    own, added = part[f"{name}.x_multiplier"], part[f"{name}.acc_multiplier"]
    return reference.residual(x, acc, own, added, part[f"{name}.shift"], bits)


def _places(size: Mapping[str, int], rows: int, columns: int) -> list[list[tuple[int, int]]]:
    """Row and column of every token of every window; outside the map where it is padded."""
    high, wide = size["window_height"], size["window_width"]
    windows = []
    for top in range(0, rows, high):
        for left in range(0, columns, wide):
            inside = [(top + i, left + j) for i in range(high) for j in range(wide)]
            windows.append(
                [
                    ((i + size["shift_down"]) % rows, (j + size["shift_right"]) % columns)
                    if i < rows and j < columns
                    else (-1, -1)
                    for i, j in inside
                ]
            )
    return windows


def _cut(size: Mapping[str, int], x: Array) -> Array:
    """The tokens of every window, zeros where a window reaches beyond the map."""
    if not size["window_height"]:
        return x
    zeros = np.zeros_like(x[:, 0, 0])
    windows = [
        np.stack([zeros if i < 0 else x[:, i, j] for i, j in window], axis=1)
        for window in _places(size, x.shape[1], x.shape[2])
    ]
    cut = np.stack(windows, axis=1)
    return cut.reshape(-1, *cut.shape[2:])


def _joined(size: Mapping[str, int], x: Array, shape: tuple[int, ...]) -> Array:
    """The tokens of every window, each back in its place on the map."""
    if not size["window_height"]:
        return x
    places = _places(size, shape[1], shape[2])
    windows = x.reshape(shape[0], len(places), *x.shape[1:])
    whole = np.zeros((*shape[:3], x.shape[-1]), dtype=x.dtype)
    for w, window in enumerate(places):
        for token, (i, j) in enumerate(window):
            if i >= 0:
                whole[:, i, j] = windows[:, w, token]
    return whole
