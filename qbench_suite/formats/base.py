"""Format: the finite set of values one element may take, and the rounding to it."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple, Self

import torch
from torch import Tensor

from qbench_suite.errors import FormatError


class Rounding(StrEnum):
    """How a value between two neighbours of a format is rounded."""

    #: To the nearer neighbour; a tie goes to the one with the even code.
    NEAREST = "nearest"
    #: To the nearer neighbour; a tie goes to the one of larger magnitude.
    AWAY = "away"
    #: To the neighbour of larger magnitude with probability (|x| - lower) / (upper - lower).
    STOCHASTIC = "stochastic"
    #: To the neighbour nearer zero.
    TRUNCATE = "truncate"


class Overflow(StrEnum):
    """What becomes of a value beyond the largest one."""

    #: The largest value of the same sign, for ±Inf too.
    SATURATE = "saturate"
    #: What the format's specification says: ±Inf or NaN where it has them, else saturation.
    SPEC = "spec"


class RoundKernel(NamedTuple):
    """The parts from which the fused fake-quantize kernel of a format is built.

    ``function(v, noise, *constants)`` rounds float32 ``v`` element by element in pure torch. Formats
    that share ``function`` share one compiled kernel, because their constants are small tensors.
    """

    function: Callable[..., Tensor]
    constants: tuple[Tensor, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Format(ABC):
    """A number format: name, width, finite values and the rounding to them; knows nothing of scales.

    A subclass gives ``code_table`` and ``round``; every fact below follows from the table. The fused
    kernel compiles whatever ``round`` is.

    Special values: NaN stays NaN; −0 is kept where the format has one, else becomes +0; ±Inf and
    finite values out of range follow ``overflow``; an empty tensor gives an empty tensor.
    """

    #: Name in case ids.
    name: str
    #: Width of one code.
    bits: int
    #: Rounding between neighbours.
    rounding: Rounding = Rounding.NEAREST
    #: What happens out of range.
    overflow: Overflow = Overflow.SATURATE
    #: Quantized with a zero point, over an asymmetric range; integer formats only.
    affine: bool = False
    #: Used without a scale, as 16-bit floats are; such a format fits the mode ``tensor`` alone.
    unit_scale: bool = False
    #: Meant for scales, not for elements: not in the grid of layer cases.
    scale_only: bool = False

    @property
    @abstractmethod
    def code_table(self) -> Mapping[int, float]:
        """The value of each code in use; NaN and ±Inf for the codes that mean them."""

    @abstractmethod
    def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
        """``x`` rounded to the format's values: float32, same shape.

        ``noise`` has the shape of ``x`` and values in [0, 1); only stochastic rounding reads it.
        """

    @functools.cached_property
    def values(self) -> tuple[float, ...]:
        """Every finite value, ascending, each once (−0 and +0 count as one)."""
        return tuple(sorted({v + 0.0 for v in self.code_table.values() if math.isfinite(v)}))

    @functools.cached_property
    def max(self) -> float:
        """The largest magnitude of a value: what a scale maps the absolute maximum to."""
        return max(abs(v) for v in self.values)

    @functools.cached_property
    def smallest(self) -> float:
        """The smallest magnitude above 0 (subnormal where the format has subnormals)."""
        return min(abs(v) for v in self.values if v)

    @functools.cached_property
    def nan_codes(self) -> int:
        """Number of codes that mean NaN."""
        return sum(math.isnan(v) for v in self.code_table.values())

    @functools.cached_property
    def inf_codes(self) -> int:
        """Number of codes that mean ±Inf."""
        return sum(math.isinf(v) for v in self.code_table.values())

    @functools.cached_property
    def has_negative_zero(self) -> bool:
        """Whether −0 has a code of its own."""
        return any(_is_negative_zero(v) for v in self.code_table.values())

    @property
    def overflows(self) -> bool:
        """Whether ``Overflow.SPEC`` differs from saturation."""
        return False

    @property
    def noisy(self) -> bool:
        """Whether rounding needs random numbers."""
        return self.rounding is Rounding.STOCHASTIC

    def variant(self, suffix: str) -> Self:
        """This format with another rounding or overflow, named ``<name>+<suffix>``.

        ``suffix`` is a value of ``Rounding`` or ``Overflow``, as in ``fp8_e4m3+stochastic``. Raises
        ``FormatError`` for any other.
        """
        name = f"{self.name}+{suffix}"
        if suffix in set(Rounding):
            return replace(self, name=name, rounding=Rounding(suffix))
        if suffix == Overflow.SPEC and not self.overflows:
            raise FormatError(
                f"+spec is for formats with codes for Inf or NaN to overflow to; {self.name} saturates "
                "by its specification. Leave the suffix out."
            )
        if suffix in set(Overflow):
            return replace(self, name=name, overflow=Overflow(suffix))
        raise FormatError(
            f"A format variant is one of {', '.join([*Rounding, *Overflow])}; got {suffix!r}. "
            f"Write for instance {self.name}+stochastic."
        )

    def round_kernel(self, device: torch.device) -> RoundKernel:
        """What the fused kernel compiles for this format: here ``round`` itself, without constants."""
        return RoundKernel(_RoundMethod(self))

    def contains(self, x: Tensor) -> Tensor:
        """For each element whether it is exactly one of ``values``: bool, same shape; NaN is not."""
        table = torch.tensor(self.values, dtype=torch.float32, device=x.device)
        x = x.to(torch.float32).contiguous()
        return table[torch.bucketize(x, table).clamp(max=len(table) - 1)] == x

    def encode(self, x: Tensor) -> Tensor:
        """Codes of values on the grid, same shape: uint8 up to 8 bits, else int32.

        −0 gets its own code where there is one; NaN and ±Inf get the lowest code that means them.
        Raises ``FormatError`` for an element that has no code.
        """
        x = x.to(torch.float32).contiguous()
        values, code_of = _lookup(self, x.device)
        index = torch.bucketize(x, values).clamp(max=len(values) - 1)
        codes, found = code_of[index], values[index] == x
        for special, code in _special_codes(self):
            match = _matches(x, special)
            codes = torch.where(match, code, codes)
            found = found | match
        if not bool(found.all()):
            raise FormatError(
                f"encode takes values of {self.name} only; got {x[~found].flatten()[0].item()!r}, "
                f"one of {int((~found).sum())} without a code. Round them first."
            )
        return codes.to(torch.uint8 if self.bits <= 8 else torch.int32)

    def decode(self, codes: Tensor) -> Tensor:
        """The value of each code: float32, same shape; NaN for a code that is not in use."""
        table = torch.full((2**self.bits,), math.nan, dtype=torch.float32)
        for code, value in self.code_table.items():
            table[code] = value
        return table.to(codes.device)[codes.to(torch.int64)]


@dataclass(frozen=True)
class _RoundMethod:
    """A format's own ``round`` with the signature of a round kernel's function."""

    format: Format

    def __call__(self, v: Tensor, noise: Tensor | None) -> Tensor:
        return self.format.round(v) if noise is None else self.format.round(v, noise=noise)


def _is_negative_zero(value: float) -> bool:
    return value == 0 and math.copysign(1, value) < 0


def _lookup(format: Format, device: torch.device) -> tuple[Tensor, Tensor]:
    """Finite values ascending, and the code of each; for zero the code of +0."""
    codes = {
        value: code
        for code, value in sorted(format.code_table.items(), reverse=True)
        if math.isfinite(value) and not _is_negative_zero(value)
    }
    values = sorted(codes)
    return (
        torch.tensor(values, dtype=torch.float32, device=device),
        torch.tensor([codes[value] for value in values], dtype=torch.int64, device=device),
    )


def _special_codes(format: Format) -> list[tuple[float, int]]:
    """NaN, ±Inf and −0, each with the lowest code that means it."""
    found: dict[str, tuple[float, int]] = {}
    for code, value in sorted(format.code_table.items()):
        if _is_negative_zero(value) or not math.isfinite(value):
            found.setdefault(str(value), (value, code))
    return list(found.values())


def _matches(x: Tensor, special: float) -> Tensor:
    if math.isnan(special):
        return x.isnan()
    if special == 0:
        return (x == 0) & x.signbit()
    return x == special
