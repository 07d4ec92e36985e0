"""The integers that a softmax looks up: exponentials of distances, biases of scores."""

from __future__ import annotations

import torch
from torch import Tensor

from qbench_fqvit.ops import tables

#: The largest exponential, of distance 0, as a power of two.
_MAX_BITS = 22
#: What a bias of scores saturates at, so that a score on top of it still fits 32 bits.
_MAX_BIAS = 2**30


def exp_table(step: float, tokens: int) -> tuple[Tensor, int]:
    """``round(2^b exp(−d · step))`` for d = 0 … 255, int32, and how many tokens it serves.

    b is 22, or less where a row of ``tokens`` would sum to 2³¹.
    """
    bits = min(_MAX_BITS, 31 - max(tokens, 1).bit_length())
    distances = torch.arange(256, dtype=torch.float64)
    table = torch.round(2.0**bits * torch.exp(-distances * step)).to(torch.int32)
    return table, (2**31 - 1) >> bits


def score_bias(bias: Tensor, unit: Tensor) -> Tensor:
    """``bias`` (W, H, T, T) in units of the scores of each head, ``unit`` (H,); −∞ masks."""
    codes = torch.round(bias.double() / unit.double()[:, None, None])
    bounded = codes.clamp(-_MAX_BIAS, _MAX_BIAS).to(torch.int32)
    return torch.where(bias == -torch.inf, tables.MASKED, bounded)
