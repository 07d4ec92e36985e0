"""The oracle: each operator as its definition reads, in Python's and NumPy's integers.

Nothing here is shared with the operators. Arrays in, arrays out; arguments as in ``operators``.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.signedinteger | np.unsignedinteger]


def _clamped(values: NDArray[np.int64], bits: int) -> Array:
    limit = 2 ** (bits - 1)
    return np.clip(values, -limit, limit - 1).astype(np.int8 if bits == 8 else np.int16)


def _scaled(values: NDArray[np.int64], shift: Array | int) -> NDArray[np.int64]:
    wide = np.asarray(shift, dtype=np.int64)
    return (values + np.left_shift(np.int64(1), wide - 1)) >> wide


def layer_norm(x: Array, shift: Array, gain: Array, bias: Array) -> Array:
    """``ops.layer_norm``, a row at a time in unbounded integers."""
    rows = x.reshape(-1, x.shape[-1])
    done = [
        _normalized(*(list(map(int, part)) for part in (row, shift, gain, bias))) for row in rows
    ]
    return np.array(done, dtype=np.int8).reshape(x.shape)


def _normalized(x: list[int], shift: list[int], gain: list[int], bias: list[int]) -> list[int]:
    v = [code * 2**exponent for code, exponent in zip(x, shift, strict=True)]
    total = sum(v)
    root = math.isqrt(max(len(v) * sum(value * value for value in v) - total * total, 1))
    exponent = 30 + root.bit_length() - 1
    reciprocal = 2**exponent // root
    normal = [(len(v) * value - total) * reciprocal // 2 ** (exponent - 12) for value in v]
    scaled = [(n * g + 2**23) // 2**24 + b for n, g, b in zip(normal, gain, bias, strict=True)]
    return [min(max(value, -128), 127) for value in scaled]


def gemm(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """``ops.gemm``."""
    acc = x.astype(np.int64) @ weight.astype(np.int64).T
    if bias is not None:
        acc = acc + bias
    return acc.astype(np.int32)


def requantize(acc: Array, multiplier: Array, shift: Array, zero_point: int = 0) -> Array:
    """``ops.requantize``."""
    scaled = _scaled(acc.astype(np.int64) * multiplier.astype(np.int64), shift)
    return _clamped(scaled + zero_point, 8)


def requantize_lookup(
    acc: Array, multiplier: Array, shift: Array, zero_point: int, table: Array
) -> Array:
    """``ops.requantize_lookup``."""
    codes = requantize(acc, multiplier, shift, zero_point)
    found: Array = table[codes.astype(np.int64) + 128]
    return found


def residual(
    x: Array, acc: Array, x_multiplier: Array, acc_multiplier: Array, shift: Array, bits: int = 8
) -> Array:
    """``ops.residual``."""
    left = x.astype(np.int64) * x_multiplier.astype(np.int64)
    right = acc.astype(np.int64) * acc_multiplier.astype(np.int64)
    return _clamped(_scaled(left + right, shift), bits)


def linear_requantize(
    x: Array,
    weight: Array,
    bias: Array | None,
    multiplier: Array,
    shift: Array,
    zero_point: int = 0,
    table: Array | None = None,
) -> Array:
    """``ops.linear_requantize``."""
    acc = gemm(x, weight, bias)
    if table is None:
        return requantize(acc, multiplier, shift, zero_point)
    return requantize_lookup(acc, multiplier, shift, zero_point, table)


def linear_residual(
    x: Array,
    weight: Array,
    bias: Array | None,
    stream: Array,
    stream_multiplier: Array,
    multiplier: Array,
    shift: Array,
    bits: int = 8,
) -> Array:
    """``ops.linear_residual``."""
    return residual(stream, gemm(x, weight, bias), stream_multiplier, multiplier, shift, bits)


def scores(q: Array, k: Array) -> Array:
    """``ops.scores``."""
    return (q.astype(np.int64) @ k.astype(np.int64).swapaxes(-1, -2)).astype(np.int32)


@functools.cache
def lg(value: int) -> int:
    """``round(16 log2 value)``: the n for which ``2^(2n - 1) <= value^32 < 2^(2n + 1)``."""
    return int(value**32).bit_length() // 2


def lis_code(total: int, exponential: int) -> int:
    """Log-Int-Softmax code of one weight, by its definition; 16 is zero."""
    if exponential == 0:
        return 16
    v = (2 * total + exponential) // (2 * exponential)
    k = v.bit_length() - 1
    half_way: bool = 2 * (v - 2**k) >= 2**k
    return min(k + half_way, 16)


def log_code(total: int, exponential: int) -> int:
    """8-bit log code of one weight, by its definition; 255 is zero."""
    if exponential == 0:
        return 255
    return min(max(lg(total) - lg(exponential), 0), 255)


def uniform_code(total: int, exponential: int) -> int:
    """Uniform 8-bit code of one weight, by its definition: in 256ths, halves up."""
    return min((512 * exponential + total) // (2 * total), 255) if exponential else 0


_DEFINITIONS = {"uniform8": uniform_code, "lis4": lis_code, "log8": log_code}


def softmax_codes(
    scores: Array,
    multiplier: Array,
    shift: int,
    exp_table: Array,
    bias: Array | None = None,
    code: str = "log8",
) -> Array:
    """``ops.softmax_codes``, a row at a time."""
    batch, heads, queries, _ = scores.shape
    codes = np.empty(scores.shape, dtype=np.uint8)
    table = [int(value) for value in exp_table]
    for b in range(batch):
        for h in range(heads):
            for t in range(queries):
                extra = None if bias is None else bias[b % len(bias), h, t].tolist()
                row = scores[b, h, t].tolist()
                codes[b, h, t] = _row_codes(row, extra, int(multiplier[h]), shift, table, code)
    return codes


def _row_codes(
    row: list[int],
    bias: list[int] | None,
    multiplier: int,
    shift: int,
    table: list[int],
    code: str,
) -> list[int]:
    extra = bias if bias is not None else [0] * len(row)
    logits: list[int | None] = []
    for score, added in zip(row, extra, strict=True):
        wrapped = (score + added + 2**31) % 2**32 - 2**31
        scaled = (wrapped * multiplier + 2 ** (shift - 1)) // 2**shift
        logits.append(None if added == -(2**31) else min(max(scaled, -128), 127))
    highest = max((logit for logit in logits if logit is not None), default=0)
    weights = [0 if logit is None else table[highest - logit] for logit in logits]
    total = sum(weights)
    return [_DEFINITIONS[code](total, weight) for weight in weights]


def code_weight(byte: int, code: str) -> int:
    """``round(2^15 · weight of byte)``.

    For ``"log8"`` it is the n for which ``(2n - 1)^16 <= 2^(256 - byte) < (2n + 1)^16``.
    """
    if code == "uniform8":
        return byte * 2**15 // 256
    if code == "lis4":
        return 1 << (15 - byte) if byte < 16 else 0
    if byte == 255:
        return 0
    below, above = 0, 2**15 + 1
    while above - below > 1:
        middle = (below + above) // 2
        if (2 * middle - 1) ** 16 <= 2 ** (256 - byte):
            below = middle
        else:
            above = middle
    return below


def context(codes: Array, v: Array, code: str = "log8") -> Array:
    """``ops.context``; for ``"lis4"`` as shifts and additions, a value at a time."""
    if code == "lis4":
        shifts = 15 - codes.astype(np.int64)[..., None]
        shifted = np.where(shifts < 0, 0, v.astype(np.int64)[:, :, None] << np.maximum(shifts, 0))
        total: NDArray[np.int64] = shifted.sum(3)
    else:
        weights = np.array([code_weight(byte, code) for byte in range(256)], dtype=np.int64)
        total = weights[codes] @ v.astype(np.int64)
    return total.astype(np.int32)


def attention(
    qkv: Array,
    multiplier: Array,
    shift: int,
    exp_table: Array,
    bias: Array | None,
    out_multiplier: Array,
    out_shift: Array,
    code: str = "log8",
) -> Array:
    """``ops.attention``."""
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)
    codes = softmax_codes(scores(q, k), multiplier, shift, exp_table, bias, code)
    acc = context(codes, v, code).swapaxes(1, 2)
    batch, tokens, heads, width = acc.shape
    return requantize(acc.reshape(batch, tokens, heads * width), out_multiplier, out_shift)
