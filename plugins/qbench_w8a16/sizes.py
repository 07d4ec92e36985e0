"""What sizes, dtypes and codes a layer has: every other is refused with its reason."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from qbench_suite import LayerError
from qbench_w8a16.codes import LARGEST

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
#: Elements that share a scale where the caller names no number: a whole row of 8-bit weights.
_GROUPS: dict[int, int | None] = {8: None, 4: 128}


def _positive(size: Any) -> bool:
    return isinstance(size, Integral) and int(size) >= 1


def check_dtype(dtype: torch.dtype, allowed: tuple[torch.dtype, ...] = DTYPES) -> None:
    """Raises ``LayerError`` for another dtype than those of ``allowed``."""
    if dtype not in allowed:
        raise LayerError(
            f"Activations are float32, bfloat16 or float16; got {dtype}. Choose one of them."
        )


def check_sizes(in_features: int, out_features: int, bits: int) -> None:
    """Raises ``LayerError`` for what is no positive integer, and for other bits than 8 and 4."""
    if not (_positive(in_features) and _positive(out_features)):
        raise LayerError(
            f"A linear layer has inputs and outputs; got in_features={in_features!r}, "
            f"out_features={out_features!r}. Give both as integers of at least 1."
        )
    if not _positive(bits) or bits not in LARGEST:
        raise LayerError(
            f"Weights have 8 or 4 bits; got bits={bits!r}. Choose one of the integers."
        )


def group_of(group_size: int | None, in_features: int, bits: int) -> int:
    """Consecutive weights that share a scale. Raises ``LayerError`` for a number that cannot be it."""
    if group_size is None:
        return min(_GROUPS[bits] or in_features, in_features)
    if not _positive(group_size) or (bits == 4 and group_size % 2 and group_size < in_features):
        raise LayerError(
            "group_size is positive, an integer, and even where two weights share a byte; got "
            f"{group_size!r} for bits={bits}. Choose a multiple of 32, or None."
        )
    return min(group_size, in_features)


def check_codes(codes: Tensor) -> None:
    """Raises ``LayerError`` for what is no matrix of integers."""
    if codes.dim() != 2 or codes.is_floating_point() or codes.dtype is torch.bool:
        raise LayerError(
            f"Codes are integers of shape (out, in); got {codes.dtype} {tuple(codes.shape)}. Round them, "
            "and convert them with .to(torch.int8)."
        )


def check_values(codes: Tensor, scales: Tensor, shape: torch.Size, group: int, bits: int) -> None:
    """Raises ``LayerError`` for codes beyond their bits, and scales not finite or not of ``shape``."""
    low, high = int(codes.min()), int(codes.max())
    if scales.shape != shape or max(-low, high) > LARGEST[bits]:
        raise LayerError(
            f"Codes of {bits} bits lie within ±{LARGEST[bits]}, and {group} of a row share a scale; got "
            f"{low} … {high}, scales {tuple(scales.shape)} for codes {tuple(codes.shape)}. Round to the "
            f"format int{bits} in a mode along the inputs."
        )
    if not bool(torch.isfinite(scales).all()):
        raise LayerError(
            f"Scales are finite; {int((~torch.isfinite(scales)).sum())} of {scales.numel()} are NaN or "
            "infinite. Mend the weights that they were made of."
        )


def check_bias(bias: Tensor | None, outputs: int) -> None:
    """Raises ``LayerError`` for a bias that has not one value an output."""
    if bias is not None and tuple(bias.shape) != (outputs,):
        raise LayerError(
            f"A bias has one value an output, ({outputs},); got {tuple(bias.shape)}. Expand it."
        )
