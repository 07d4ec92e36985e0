"""The number formats that ship with the suite, as pure data."""

from __future__ import annotations

from collections.abc import Callable

from qbench_suite import (
    CodebookFormat,
    Family,
    FloatFormat,
    Format,
    IdentityFormat,
    IntFormat,
    Rounding,
    Specials,
    hookimpl,
)

# QLoRA, Dettmers et al. 2023, appendix E: quantiles of N(0, 1) scaled to [-1, 1], with an exact 0.
NF4_VALUES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)

FORMATS: tuple[Format, ...] = (
    # OCP 8-bit Floating Point Specification 1.0, and the FNUZ pair of Graphcore and AMD hardware.
    FloatFormat(name="fp8_e4m3", exponent_bits=4, mantissa_bits=3, specials=Specials.FN),
    FloatFormat(name="fp8_e5m2", exponent_bits=5, mantissa_bits=2),
    FloatFormat(
        name="fp8_e4m3fnuz", exponent_bits=4, mantissa_bits=3, bias=8, specials=Specials.FNUZ
    ),
    FloatFormat(
        name="fp8_e5m2fnuz", exponent_bits=5, mantissa_bits=2, bias=16, specials=Specials.FNUZ
    ),
    # OCP Microscaling Formats 1.0.
    FloatFormat(name="fp6_e2m3", exponent_bits=2, mantissa_bits=3, specials=Specials.NONE),
    FloatFormat(name="fp6_e3m2", exponent_bits=3, mantissa_bits=2, specials=Specials.NONE),
    FloatFormat(name="fp4_e2m1", exponent_bits=2, mantissa_bits=1, specials=Specials.NONE),
    # No specification: logarithmic 4-bit, ties to the even code.
    FloatFormat(name="fp4_e3m0", exponent_bits=3, mantissa_bits=0, specials=Specials.NONE),
    IntFormat(name="int8", bits=8, low=-127, high=127),
    IntFormat(name="int4", bits=4, low=-7, high=7),
    IntFormat(name="int3", bits=3, low=-3, high=3),
    IntFormat(name="uint8", bits=8, low=0, high=255, affine=True),
    CodebookFormat(name="nf4", bits=4, values=NF4_VALUES),
    # Ties go up, as in ml_dtypes; 0xFF is NaN; there is neither zero nor sign.
    CodebookFormat(
        name="e8m0",
        bits=8,
        values=tuple(2.0**e for e in range(-127, 128)),
        special_codes=((255, float("nan")),),
        rounding=Rounding.AWAY,
        scale_only=True,
    ),
    FloatFormat(name="bf16", exponent_bits=8, mantissa_bits=7, unit_scale=True),
    FloatFormat(name="fp16", exponent_bits=5, mantissa_bits=10, unit_scale=True),
    IdentityFormat(name="fp32"),
)


@hookimpl
def qbench_register_formats(register: Callable[[Format | Family[Format]], None]) -> None:
    """Register every format of this module."""
    for format in FORMATS:
        register(format)
