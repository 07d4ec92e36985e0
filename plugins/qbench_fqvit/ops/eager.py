"""The operators in torch's own integer operations: any device, no compiler, the same bits.

Every tensor here is of an integer type, and so is every step in between.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qbench_fqvit.ops import tables
from qbench_fqvit.ops.products import batched, product


def _floor_log2(value: Tensor, limit: int) -> Tensor:
    """``floor(log2 value)`` of positive int64 below ``2^limit``."""
    powers = tables.constant(_powers, value.device, limit)
    return (value.unsqueeze(-1) >= powers).sum(-1)


def _powers(limit: int) -> list[int]:
    return [2**exponent for exponent in range(1, limit)]


def _isqrt(value: Tensor) -> Tensor:
    """``floor(sqrt(value))`` of int64 below 2^62, bit by bit from the highest."""
    root = torch.zeros_like(value)
    for bit in range(30, -1, -1):
        larger = root + (1 << bit)
        root = torch.where(larger * larger <= value, larger, root)
    return root


def layer_norm(x: Tensor, shift: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """``ops.layer_norm``."""
    v = x.long() << shift.long()
    channels = v.shape[-1]
    total = v.sum(-1, keepdim=True)
    variance = channels * (v * v).sum(-1, keepdim=True) - total * total
    root = _isqrt(variance.clamp(min=1))
    exponent = 30 + _floor_log2(root, 31)
    reciprocal = (torch.ones_like(root) << exponent) // root
    normal = ((channels * v - total) * reciprocal) >> (exponent - 12)
    return (((normal * gain + (1 << 23)) >> 24) + bias).clamp(-128, 127).to(torch.int8)


def gemm(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``ops.gemm``."""
    acc = product(x.reshape(x.shape[:-1].numel(), x.shape[-1]), weight)
    if bias is not None:
        acc = acc + bias
    return acc.reshape(*x.shape[:-1], weight.shape[0])


def _scale(values: Tensor, shift: Tensor | int) -> Tensor:
    """``round(values / 2^shift)`` of int64, halves up."""
    wide = shift.long() if isinstance(shift, Tensor) else shift
    half = torch.ones_like(wide) << (wide - 1) if isinstance(wide, Tensor) else 1 << (wide - 1)
    return (values + half) >> wide


def requantize(acc: Tensor, multiplier: Tensor, shift: Tensor, zero_point: int) -> Tensor:
    """``ops.requantize``."""
    scaled = _scale(acc.long() * multiplier, shift)
    return (scaled + zero_point).clamp(-128, 127).to(torch.int8)


def requantize_lookup(
    acc: Tensor, multiplier: Tensor, shift: Tensor, zero_point: int, table: Tensor
) -> Tensor:
    """``ops.requantize_lookup``."""
    return table[requantize(acc, multiplier, shift, zero_point).long() + 128]


def residual(
    x: Tensor, acc: Tensor, x_multiplier: Tensor, acc_multiplier: Tensor, shift: Tensor, bits: int
) -> Tensor:
    """``ops.residual``."""
    total = _scale(x.long() * x_multiplier + acc.long() * acc_multiplier, shift)
    limit = 1 << (bits - 1)
    return total.clamp(-limit, limit - 1).to(torch.int8 if bits == 8 else torch.int16)


def linear_requantize(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    multiplier: Tensor,
    shift: Tensor,
    zero_point: int,
    table: Tensor | None,
) -> Tensor:
    """``ops.linear_requantize``."""
    acc = gemm(x, weight, bias)
    if table is None:
        return requantize(acc, multiplier, shift, zero_point)
    return requantize_lookup(acc, multiplier, shift, zero_point, table)


def linear_residual(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stream: Tensor,
    stream_multiplier: Tensor,
    multiplier: Tensor,
    shift: Tensor,
    bits: int,
) -> Tensor:
    """``ops.linear_residual``."""
    acc = gemm(x, weight, bias)
    return residual(stream, acc, stream_multiplier, multiplier, shift, bits)


def scores(q: Tensor, k: Tensor) -> Tensor:
    """``ops.scores``."""
    return batched(q, k)


def _lg(value: Tensor) -> Tensor:
    """``round(16 log2 value)`` of int64; 0 for what is not positive."""
    positive = value.clamp(min=1)
    exponent = _floor_log2(positive, 62)
    scaled = positive << (62 - exponent)
    steps = (scaled.unsqueeze(-1) >= tables.constant(tables.lg_thresholds, value.device)).sum(-1)
    return 16 * exponent + steps


def softmax_codes(
    values: Tensor,
    multiplier: Tensor,
    shift: int,
    exp_table: Tensor,
    bias: Tensor | None,
    code: str,
) -> Tensor:
    """``ops.softmax_codes``."""
    batch = values.shape[0]
    masked = torch.zeros((), dtype=torch.bool, device=values.device)
    if bias is not None:
        every = bias.repeat(batch // bias.shape[0], 1, 1, 1)
        masked = every == tables.MASKED
        values = values + every.masked_fill(masked, 0)
    logits = _scale(values.long() * multiplier[:, None, None], shift).clamp(-128, 127)
    logits = logits.masked_fill(masked, -128)
    distance = logits.amax(-1, keepdim=True) - logits if values.numel() else logits
    table = exp_table.long()
    total = table[distance].masked_fill(masked, 0).sum(-1, keepdim=True)
    if code == "uniform8":
        # A row sums to 0 where it is masked as a whole.
        codes = ((256 * table[distance] + (total >> 1)) // total.clamp(min=1)).clamp(max=255)
    elif code == "lis4":
        codes = sum_of_steps(total, table[distance])
    else:
        known = torch.where(table > 0, _lg(table), -(1 << 20))
        codes = (_lg(total) - known[distance]).clamp(0, 255)
    return codes.masked_fill(masked, tables.ZERO_CODE[code]).to(torch.uint8)


def sum_of_steps(total: Tensor, exponential: Tensor) -> Tensor:
    """Log-Int-Softmax codes: how many of the factors f have ``2 total >= f exponential``."""
    codes = torch.zeros_like(exponential)
    for factor in tables.lis_factors():
        codes += 2 * total >= factor * exponential
    return codes


def context(codes: Tensor, v: Tensor, code: str) -> Tensor:
    """``ops.context``."""
    weights = tables.constant(tables.code_weights, codes.device, code)[codes.long()]
    transposed = v.transpose(-1, -2)
    high = batched((weights >> 8).to(torch.uint8), transposed)
    return (high << 8) + batched((weights & 255).to(torch.uint8), transposed)


def attention(
    qkv: Tensor,
    multiplier: Tensor,
    shift: int,
    exp_table: Tensor,
    bias: Tensor | None,
    out_multiplier: Tensor,
    out_shift: Tensor,
    code: str,
) -> Tensor:
    """``ops.attention``."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    codes = softmax_codes(scores(q, k), multiplier, shift, exp_table, bias, code)
    acc = context(codes, v, code).transpose(1, 2).flatten(2)
    return requantize(acc, out_multiplier, out_shift, 0)
