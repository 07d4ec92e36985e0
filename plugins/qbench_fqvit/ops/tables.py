"""The constants of the codes of attention weights, computed exactly from Python's integers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

#: Scale of the weight that a code stands for: one weighs 2^15.
WEIGHT_BITS = 15
#: How attention weights are written as bytes, and the byte of a weight of zero: the first of the uniform
#: ones, the one past the 16 powers of two, the last of the sixteenths of octaves.
ZERO_CODE = {"uniform8": 0, "lis4": 16, "log8": 255}
#: Their names, in the order in which the C++ library and the header of a block count them.
CODES = tuple(ZERO_CODE)
#: A score bias of this value masks its entry.
MASKED = -(2**31)
#: Thresholds of lg are kept for a number scaled to [2^62, 2^63).
_NORMAL = 62


def _root16(value: int) -> int:
    """``floor(value^(1/16))``: nested floors of square roots are the floor of the root."""
    for _ in range(4):
        value = math.isqrt(value)
    return value


def lg_thresholds() -> list[int]:
    """``T_j = ceil(2^(62 + (2j + 1) / 32))``, j = 0 … 15: where lg of a scaled number steps up."""
    exact = [2 ** (32 * _NORMAL + 2 * j + 1) for j in range(16)]
    return [math.isqrt(_root16(value)) + 1 for value in exact]


def lg(value: int) -> int:
    """``round(16 log2 value)`` of a positive integer below 2^63: no ties, powers are irrational."""
    exponent = value.bit_length() - 1
    scaled = value << (_NORMAL - exponent)
    return 16 * exponent + sum(scaled >= threshold for threshold in lg_thresholds())


def lis_factors() -> list[int]:
    """Factors f_j by which a Log-Int-Softmax code counts: ``code = #{j : 2 sum >= f_j e}``.

    The code of ``v = round(sum / e)`` steps to 1 at v = 2 and to j + 1 at v = 3 · 2^(j-1), and
    ``v >= n`` holds where ``2 sum >= (2n - 1) e``: no division is left. The last step is to zero.
    """
    return [3, *(3 * 2**j - 1 for j in range(1, ZERO_CODE["lis4"]))]


def code_weights(code: str) -> list[int]:
    """``round(2^15 w)`` of the weight w of each of 256 codes: c / 256, ``2^-c``, ``2^(-c/16)``."""
    if code == "uniform8":
        return [c << (WEIGHT_BITS - 8) for c in range(256)]
    zero = ZERO_CODE[code]
    if code == "lis4":
        weights = [2 ** (WEIGHT_BITS - c) for c in range(zero)]
    else:
        # floor(2 · 2^(15 - c/16)) halved and rounded up is the rounded weight.
        weights = [(_root16(2 ** (16 * WEIGHT_BITS + 16 - c)) + 1) // 2 for c in range(zero)]
    return weights + [0] * (256 - zero)


@functools.cache
def constant(
    compute: Callable[..., list[int]], device: torch.device, *arguments: int | str
) -> Tensor:
    """What ``compute`` gives, as an int64 tensor on ``device``, made once."""
    return torch.tensor(compute(*arguments), dtype=torch.int64, device=device)
