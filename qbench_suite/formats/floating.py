"""FloatFormat: sign, exponent and mantissa bits, with a fast branch-free rounding."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import torch
from torch import Tensor

from qbench_suite.errors import FormatError
from qbench_suite.formats.base import Format, Overflow, Rounding, RoundKernel
from qbench_suite.formats.steps import STEP_ROUNDERS

_EXPONENT_MASK = 0x7F800000
_SIGN_MASK = -0x80000000
_FLOAT32_BIAS = 127
_FLOAT32_MAX = 3.4028234663852886e38


class Specials(StrEnum):
    """Which codes of a float format are not finite numbers."""

    #: The top exponent means ±Inf (mantissa 0) and NaN, as in IEEE 754 and OCP E5M2.
    IEEE = "ieee"
    #: Only all-ones exponent and mantissa mean NaN; there is no Inf (OCP E4M3).
    FN = "fn"
    #: Only the code of −0 means NaN; there is neither Inf nor −0 (FNUZ).
    FNUZ = "fnuz"
    #: Every code is a finite number (OCP FP6 and FP4).
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class FloatFormat(Format):
    """A binary floating-point format with subnormals.

    Values are ``(−1)^s · 2^(e − bias) · (1 + m / 2^M)`` for e > 0 and ``(−1)^s · 2^(1 − bias) · m / 2^M``
    for e = 0 (OCP 8-bit Floating Point Specification; OCP Microscaling Formats v1.0).
    """

    #: E, the width of the exponent field.
    exponent_bits: int
    #: M, the width of the mantissa field; 0 is allowed.
    mantissa_bits: int
    #: Exponent bias; 2^(E−1) − 1 unless given.
    bias: int = -1
    #: Which codes are not finite numbers.
    specials: Specials = Specials.IEEE
    bits: int = field(init=False)

    def __post_init__(self) -> None:
        if not (2 <= self.exponent_bits <= 8 and 0 <= self.mantissa_bits <= 10):
            raise FormatError(
                f"A float format has 2–8 exponent and 0–10 mantissa bits; {self.name!r} has "
                f"{self.exponent_bits} and {self.mantissa_bits}. Subclass Format for others."
            )
        object.__setattr__(self, "bits", 1 + self.exponent_bits + self.mantissa_bits)
        if self.bias < 0:
            object.__setattr__(self, "bias", 2 ** (self.exponent_bits - 1) - 1)
        if self.min_exponent < 1 - _FLOAT32_BIAS or self.max > _FLOAT32_MAX:
            raise FormatError(
                f"Normal values of a float format are normal float32 numbers; those of {self.name!r} "
                f"span 2^{self.min_exponent} … {self.max:g}. Change `bias` or `exponent_bits`."
            )

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal value, 1 − bias."""
        return 1 - self.bias

    @property
    def overflows(self) -> bool:
        return self.specials is not Specials.NONE

    @functools.cached_property
    def max(self) -> float:
        top_field = 2**self.exponent_bits - 1
        top_mantissa = 2**self.mantissa_bits - 1
        if self.specials is Specials.IEEE:
            top_field -= 1
        elif self.specials is Specials.FN and self.mantissa_bits:
            top_mantissa -= 1
        elif self.specials is Specials.FN:
            top_field -= 1
        return self._value(top_field, top_mantissa)

    @functools.cached_property
    def smallest(self) -> float:
        return math.ldexp(1.0, self.min_exponent - self.mantissa_bits)

    @functools.cached_property
    def code_table(self) -> Mapping[int, float]:
        return {code: self._code_value(code) for code in range(2**self.bits)}

    def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
        kernel = _round_kernel(self, x.device)
        return kernel.function(x.to(torch.float32), noise, *kernel.constants)

    def round_kernel(self, device: torch.device) -> RoundKernel:
        if type(self).round is not FloatFormat.round:
            return super().round_kernel(device)
        return _round_kernel(self, device)

    def contains(self, x: Tensor) -> Tensor:
        """Whether rounding to nearest leaves an element as it is; a subclass's ``round`` has no say."""
        x = x.to(torch.float32)
        kernel = _round_kernel(self._nearest(), x.device)
        return kernel.function(x, None, *kernel.constants) == x

    def _nearest(self) -> FloatFormat:
        return replace(self, rounding=Rounding.NEAREST, overflow=Overflow.SATURATE)

    def _value(self, exponent_field: int, mantissa: int) -> float:
        scaled = mantissa + (2**self.mantissa_bits if exponent_field else 0)
        return math.ldexp(scaled, max(exponent_field, 1) - self.bias - self.mantissa_bits)

    def _code_value(self, code: int) -> float:
        sign = -1.0 if code >> (self.bits - 1) else 1.0
        exponent_field = (code >> self.mantissa_bits) & (2**self.exponent_bits - 1)
        mantissa = code & (2**self.mantissa_bits - 1)
        top = exponent_field == 2**self.exponent_bits - 1
        if self.specials is Specials.IEEE and top:
            return math.nan if mantissa else sign * math.inf
        if self.specials is Specials.FN and top and mantissa == 2**self.mantissa_bits - 1:
            return math.nan
        if self.specials is Specials.FNUZ and code == 2 ** (self.bits - 1):
            return math.nan
        return sign * self._value(exponent_field, mantissa)


def _binade(v: Tensor, min_bits: Tensor) -> Tensor:
    """Power of two of each element's binade, not below the format's smallest normal value."""
    return torch.maximum(v.view(torch.int32) & _EXPONENT_MASK, min_bits).view(torch.float32)


def _with_sign(r: Tensor, v: Tensor, sign_mask: Tensor) -> Tensor:
    """``r`` with the sign bit of ``v``, so that −0 survives the arithmetic, which gives +0.

    A format without −0 has mask 0; then r, +0 for every zero, stays as it is.
    """
    return (r.view(torch.int32) | (v.view(torch.int32) & sign_mask)).view(torch.float32)


def _add_magic(
    v: Tensor, noise: Tensor | None, magic: Tensor, min_bits: Tensor, sign_mask: Tensor
) -> Tensor:
    """Nearest, ties to even mantissa: adding 1.5·2^(23−M) binades leaves M mantissa bits.

    The sum is correctly rounded by the hardware, so this is exact for |v| < 2^(104+M).
    """
    offset = _binade(v, min_bits) * magic
    return _with_sign((v + offset) - offset, v, sign_mask)


def _add_magic_even_code(
    v: Tensor, noise: Tensor | None, magic: Tensor, min_bits: Tensor, sign_mask: Tensor
) -> Tensor:
    """The same for M = 0, where the even code alternates between binades.

    A tie 1.5·2^e must go to the even one of the codes of 2^e and 2^(e+1); an odd addend flips the
    parity of the sum, hence the direction of the tie.
    """
    binade = _binade(v, min_bits)
    code = (binade.view(torch.int32) - min_bits) >> 23
    addend = magic + (code & 1).to(torch.float32)
    # In units of the binade, as the addend of a wide exponent range would be Inf.
    return _with_sign(((v / binade + addend) - addend) * binade, v, sign_mask)


def _by_steps(rounding: Rounding, mantissa_bits: int) -> Callable[..., Tensor]:
    """Rounding in units of the last place: slower, any rounding, any exponent range."""
    step = STEP_ROUNDERS[rounding]
    units = 2.0**mantissa_bits

    def round_steps(
        v: Tensor, noise: Tensor | None, magic: Tensor, min_bits: Tensor, sign_mask: Tensor
    ) -> Tensor:
        binade = _binade(v, min_bits)
        steps = step((v / binade).abs() * units, noise)
        # The sign by multiplication: a zero without sign bit would take one from the mask alone.
        magnitude = steps / units * binade
        signed = torch.where(v < 0, 0.0 - magnitude, magnitude)
        return _with_sign(signed, v, sign_mask)

    return round_steps


def _saturating(rounder: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def saturate(v: Tensor, noise: Tensor | None, top: Tensor, *constants: Tensor) -> Tensor:
        return rounder(torch.minimum(torch.maximum(v, -top), top), noise, *constants)

    return saturate


def _overflowing(rounder: Callable[..., Tensor], special: float) -> Callable[..., Tensor]:
    """Values that round beyond the largest one, and ±Inf, become ±``special``."""

    def overflow(v: Tensor, noise: Tensor | None, top: Tensor, *constants: Tensor) -> Tensor:
        # Twice the largest value is beyond range for certain, and stays clear of Inf - Inf.
        beyond = torch.clamp(2 * top, max=_FLOAT32_MAX)
        bounded = torch.minimum(torch.maximum(v, -beyond), beyond)
        r = rounder(bounded, noise, *constants)
        return torch.where(r.abs() > top, torch.copysign(torch.full_like(r, special), v), r)

    return overflow


@functools.cache
def _rounder(
    rounding: Rounding, overflow: float | None, mantissa_bits: int | None
) -> Callable[..., Tensor]:
    """One function object a family, so that the formats of a family share compiled kernels.

    ``mantissa_bits`` is None where the fast magic addition serves; it takes M from its constants.
    """
    if mantissa_bits is None:
        rounder: Callable[..., Tensor] = _add_magic
    elif mantissa_bits == 0 and rounding is Rounding.NEAREST:
        rounder = _add_magic_even_code
    else:
        rounder = _by_steps(rounding, mantissa_bits)
    return _saturating(rounder) if overflow is None else _overflowing(rounder, overflow)


@functools.cache
def _round_kernel(format: FloatFormat, device: torch.device) -> RoundKernel:
    m = format.mantissa_bits
    # Beyond that exponent the magic addend itself would be Inf in float32.
    fast = math.frexp(format.max)[1] + 1 + 23 - m < 127
    magic_serves = format.rounding is Rounding.NEAREST and fast and m > 0
    rounder = _rounder(
        format.rounding,
        _overflow_value(format),
        None if magic_serves else m,
    )
    min_bits = (format.min_exponent + _FLOAT32_BIAS) << 23
    sign_mask = 0 if format.specials is Specials.FNUZ else _SIGN_MASK
    constants = (
        torch.tensor(format.max, dtype=torch.float32, device=device),
        torch.tensor(1.5 * 2.0 ** (23 - m), dtype=torch.float32, device=device),
        torch.tensor(min_bits, dtype=torch.int32, device=device),
        torch.tensor(sign_mask, dtype=torch.int32, device=device),
    )
    return RoundKernel(rounder, constants)


def _overflow_value(format: FloatFormat) -> float | None:
    """What an overflow becomes; None means the largest value."""
    if format.overflow is Overflow.SATURATE or format.specials is Specials.NONE:
        return None
    return math.inf if format.specials is Specials.IEEE else math.nan
