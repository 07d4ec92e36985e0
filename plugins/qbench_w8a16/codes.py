"""Weights as integer codes: how they are made, packed, and read back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from qbench_suite import LayerError

#: Bits of a code → the largest code; the most negative one of two's complement is unused.
LARGEST = {8: 127, 4: 7}


def bits_of(codes: Tensor) -> int:
    """8 of int8 codes, 4 of packed ones (uint8)."""
    return 8 if codes.dtype is torch.int8 else 4


def quantized(weights: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor]:
    """Codes ``round(w / s)`` and scales ``s = max|w| / largest`` of each group of each row.

    ``weights``: (out, in), float → int8 (out, in), not packed, and float32 (out, ⌈in / group⌉). Ties
    go to even; a group of zeros has scale 1. Raises ``LayerError`` for NaN and ±Inf.
    """
    weights = weights.detach().to(torch.float32)
    if not bool(torch.isfinite(weights).all()):
        raise LayerError(
            f"Weights to be quantized are finite; {int((~torch.isfinite(weights)).sum())} of "
            f"{weights.numel()} are NaN or infinite. Mend the checkpoint, or leave the layer float."
        )
    largest = LARGEST[bits]
    amax = grouped(weights, group).abs().amax(-1)
    scales = torch.where(amax > 0, amax / largest, 1.0)
    # The scale of a subnormal maximum may round to zero, or to less than its share.
    scales = torch.where(scales > 0, scales, 1.0)
    codes = torch.round(weights / spread(scales, group, weights.shape[1]))
    return codes.clamp_(-largest, largest).to(torch.int8), scales


def dequantized(codes: Tensor, scales: Tensor, group: int, width: int) -> Tensor:
    """``code · scale`` as float32: (out, ``width``), of codes that may be packed."""
    values = unpacked(codes, width) if bits_of(codes) == 4 else codes
    return values.to(torch.float32) * spread(scales, group, width)


def packed(codes: Tensor) -> Tensor:
    """int8 (…, in) within −8 … 7 → uint8 (…, ⌈in / 2⌉), the even element in the low half."""
    nibbles = F.pad(codes, (0, codes.shape[-1] % 2)).view(torch.uint8) & 15
    return nibbles[..., ::2] | nibbles[..., 1::2] << 4


def unpacked(codes: Tensor, width: int) -> Tensor:
    """The inverse of ``packed``: uint8 (…, ⌈width / 2⌉) → int8 (…, width)."""
    pairs = codes.view(torch.int8)
    return torch.stack((pairs << 4 >> 4, pairs >> 4), -1).flatten(-2)[..., :width]


def grouped(weights: Tensor, group: int) -> Tensor:
    """(out, in) → (out, groups, group), the last one filled with zeros."""
    rows, width = weights.shape
    return F.pad(weights, (0, -width % group)).view(rows, -1, group)


def spread(scales: Tensor, group: int, width: int) -> Tensor:
    """(out, groups) → a scale for each of ``width`` elements, or a column where one serves all."""
    if scales.shape[1] == 1:
        return scales
    return scales.repeat_interleave(group, 1)[:, :width]
