"""FloatFormat: bit-equal to ml_dtypes, torch and exact fractions, whatever the rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench_formats import FORMATS
from qbench_suite import FloatFormat, FormatError, Overflow, Rounding, Specials

FLOATS = {f.name: f for f in FORMATS if isinstance(f, FloatFormat)}
SMALL = [name for name, f in FLOATS.items() if f.bits <= 8]
ML_DTYPES = {
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "fp8_e4m3fnuz": "float8_e4m3fnuz",
    "fp8_e5m2fnuz": "float8_e5m2fnuz",
    "fp6_e2m3": "float6_e2m3fn",
    "fp6_e3m2": "float6_e3m2fn",
    "fp4_e2m1": "float4_e2m1fn",
}
FLT_MAX = 3.4028234663852886e38
#: Floats that the suite does not ship: narrow, wide, biased, and without a mantissa.
EXOTIC = (
    FloatFormat(name="e3m4", exponent_bits=3, mantissa_bits=4),
    FloatFormat(
        name="e4m3b11fnuz", exponent_bits=4, mantissa_bits=3, bias=11, specials=Specials.FNUZ
    ),
    FloatFormat(name="e5m0", exponent_bits=5, mantissa_bits=0, specials=Specials.NONE),
    FloatFormat(name="e6m1", exponent_bits=6, mantissa_bits=1),
    FloatFormat(name="e3m0fn", exponent_bits=3, mantissa_bits=0, specials=Specials.FN),
    FloatFormat(name="e2m3b0", exponent_bits=2, mantissa_bits=3, bias=0, specials=Specials.NONE),
    FloatFormat(
        name="e2m1b120", exponent_bits=2, mantissa_bits=1, bias=120, specials=Specials.NONE
    ),
    FloatFormat(name="e8m0", exponent_bits=8, mantissa_bits=0),
)


def cast_by_ml_dtypes(x: Tensor, name: str) -> Tensor:
    """``x`` through the type of ml_dtypes and back to float32."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with np.errstate(all="ignore"):
        narrow = x.numpy().astype(getattr(ml_dtypes, ML_DTYPES[name]))
        return torch.from_numpy(narrow.astype(np.float32))


@pytest.mark.parametrize("name", ML_DTYPES)
def test_nearest_equals_ml_dtypes_on_a_dense_sample(
    name: str, dense: Tensor, same_bits: Callable[[Tensor, Tensor], bool]
) -> None:
    format = FLOATS[name]
    expected = cast_by_ml_dtypes(dense.clamp(-format.max, format.max), name)
    assert len(dense) > 500_000
    assert same_bits(format.round(dense), expected)


@pytest.mark.parametrize("name", ML_DTYPES)
def test_nearest_equals_ml_dtypes_around_values_and_midpoints(
    name: str,
    hard: Callable[[FloatFormat], Tensor],
    same_bits: Callable[[Tensor, Tensor], bool],
) -> None:
    format = FLOATS[name]
    x = hard(format)
    expected = cast_by_ml_dtypes(x.clamp(-format.max, format.max), name)
    assert same_bits(format.round(x), expected)


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_sixteen_bit_floats_equal_torch(
    name: str, dtype: torch.dtype, dense: Tensor, same_bits: Callable[[Tensor, Tensor], bool]
) -> None:
    format = FLOATS[name]
    assert format.max == torch.finfo(dtype).max
    bounded = dense.clamp(-format.max, format.max)
    assert same_bits(format.round(dense), bounded.to(dtype).to(torch.float32))
    spec = format.variant("spec")
    x = torch.cat([dense, torch.tensor([torch.inf, -torch.inf, torch.nan, FLT_MAX, -FLT_MAX])])
    assert same_bits(spec.round(x), x.to(dtype).to(torch.float32))


@pytest.mark.parametrize("rounding", ["nearest", "away", "truncate"])
@pytest.mark.parametrize("format", [*(FLOATS[n] for n in SMALL), *EXOTIC], ids=lambda f: f.name)
def test_rounding_equals_exact_fractions(
    format: FloatFormat,
    rounding: str,
    hard: Callable[[FloatFormat], Tensor],
    exact: Callable[[FloatFormat, float, Rounding], float],
) -> None:
    x = hard(format)
    got = format.variant(rounding).round(x)
    expected = [exact(format, v, Rounding(rounding)) for v in x.tolist()]
    assert got.tolist() == expected
    keeps_sign = format.has_negative_zero
    zeros = got == 0
    assert torch.equal(got.signbit()[zeros], x.signbit()[zeros] & keeps_sign)


def test_ties_of_a_float_without_mantissa_go_to_the_even_code() -> None:
    ties = torch.tensor([0.125, 0.375, 0.75, 1.5, 3.0, 6.0, 12.0])
    even = torch.tensor([0.0, 0.5, 0.5, 2.0, 2.0, 8.0, 8.0])
    e3m0 = FLOATS["fp4_e3m0"]
    assert torch.equal(e3m0.round(ties), even)
    assert torch.equal(e3m0.round(-ties), -even)
    away = torch.tensor([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
    assert torch.equal(e3m0.variant("away").round(ties), away)


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2", "fp8_e4m3fnuz", "fp8_e5m2fnuz"])
def test_overflow_by_specification_equals_ml_dtypes(
    name: str,
    hard: Callable[[FloatFormat], Tensor],
    same_bits: Callable[[Tensor, Tensor], bool],
) -> None:
    format = FLOATS[name]
    special = torch.tensor(
        [torch.inf, -torch.inf, torch.nan, FLT_MAX, -FLT_MAX, 449.0, 463.9, 464.0]
    )
    x = torch.cat([hard(format), special])
    assert same_bits(format.variant("spec").round(x), cast_by_ml_dtypes(x, name))


@dataclass(frozen=True)
class Special:
    """What becomes of values beyond range by a format's specification."""

    name: str
    tie: float
    expected: float


@pytest.mark.parametrize(
    "case",
    [
        Special("fp8_e4m3", 464.0, torch.nan),
        Special("fp8_e5m2", 61440.0, torch.inf),
        Special("fp8_e4m3fnuz", 248.0, torch.nan),
        Special("fp8_e5m2fnuz", 61440.0, torch.nan),
    ],
    ids=lambda case: case.name,
)
def test_overflow_by_specification_starts_past_the_rounding_boundary(case: Special) -> None:
    format = FLOATS[case.name].variant("spec")
    below, tie = torch.tensor(case.tie), torch.tensor(case.tie)
    below = torch.nextafter(below, torch.tensor(0.0))
    above = torch.nextafter(tie, torch.tensor(torch.inf))
    assert format.round(below).item() == format.max
    beyond = torch.stack([above, torch.tensor(torch.inf), torch.tensor(1e30)])
    for sign in (1.0, -1.0):
        expected = torch.full((3,), sign * case.expected)
        assert torch.equal(format.round(sign * beyond).isnan(), expected.isnan())
        if not expected.isnan().any():
            assert torch.equal(format.round(sign * beyond), expected)


@pytest.mark.parametrize("name", ["fp4_e2m1", "fp6_e2m3", "fp6_e3m2", "fp4_e3m0"])
def test_formats_without_special_codes_have_no_variant_for_overflow(name: str) -> None:
    format = FLOATS[name]
    with pytest.raises(FormatError, match="saturates by its specification"):
        format.variant("spec")
    x = torch.tensor([torch.inf, -torch.inf, 1e30, format.max * 1.01])
    top = format.max
    assert replace(format, overflow=Overflow.SPEC).round(x).tolist() == [top, -top, top, top]


@pytest.mark.parametrize("name", FLOATS)
def test_contains_holds_exactly_for_the_values(name: str) -> None:
    format = FLOATS[name]
    values = torch.tensor(format.values)
    assert format.contains(values).all()
    assert format.contains(torch.tensor(-0.0))
    beside = torch.cat([values[1:].nextafter(values[:-1]), values[:-1].nextafter(values[1:])])
    # The neighbours of a float32 zero are no values of a format; nor are those of any other value.
    assert not format.contains(beside).any()
    outside = torch.tensor([torch.nan, torch.inf, -torch.inf, FLT_MAX, 1e-45])
    assert not format.contains(outside).any()


@pytest.mark.parametrize(("exponent_bits", "mantissa_bits"), [(1, 2), (9, 3), (4, 11), (4, -1)])
def test_widths_out_of_range_are_refused(exponent_bits: int, mantissa_bits: int) -> None:
    with pytest.raises(FormatError, match=r"2–8 exponent and 0–10 mantissa bits; 'odd' has"):
        FloatFormat(name="odd", exponent_bits=exponent_bits, mantissa_bits=mantissa_bits)


@pytest.mark.parametrize(("bias", "specials"), [(128, Specials.FNUZ), (127, Specials.NONE)])
def test_values_beyond_normal_float32_are_refused(bias: int, specials: Specials) -> None:
    with pytest.raises(FormatError, match="Change `bias` or `exponent_bits`"):
        FloatFormat(name="odd", exponent_bits=8, mantissa_bits=3, bias=bias, specials=specials)


@pytest.mark.parametrize("format", [*FLOATS.values(), *EXOTIC], ids=lambda f: f.name)
def test_facts_from_the_formula_agree_with_the_code_table(format: FloatFormat) -> None:
    assert format.max == format.values[-1] == -format.values[0]
    assert format.smallest == min(v for v in format.values if v > 0)
    assert format.bits == 1 + format.exponent_bits + format.mantissa_bits
    assert list(format.code_table) == list(range(2**format.bits))


def test_a_subclass_with_its_own_round_is_what_the_kernel_runs() -> None:
    class Floor(FloatFormat):
        def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
            return super().round(x.floor())

    format = Floor(name="floor", exponent_bits=4, mantissa_bits=3, specials=Specials.FN)
    kernel = format.round_kernel(torch.device("cpu"))
    x = torch.tensor([1.9, -1.1, 600.0])
    assert kernel.function(x, None, *kernel.constants).tolist() == [1.0, -2.0, 448.0]


def test_formats_of_a_family_share_their_kernel_function() -> None:
    cpu = torch.device("cpu")
    functions = {FLOATS[n].round_kernel(cpu).function for n in SMALL if n != "fp4_e3m0"}
    assert len(functions) == 1


def test_overflow_and_rounding_can_be_given_together(
    same_bits: Callable[[Tensor, Tensor], bool],
) -> None:
    format = FloatFormat(
        name="f", exponent_bits=5, mantissa_bits=2, rounding=Rounding.AWAY, overflow=Overflow.SPEC
    )
    x = torch.tensor([61440.0, 61439.0, torch.inf, torch.nan, -61440.0, 1.125])
    expected = torch.tensor([torch.inf, 57344.0, torch.inf, torch.nan, -torch.inf, 1.25])
    assert same_bits(format.round(x), expected)


def torch_oracle(x: Tensor, name: str) -> Tensor:
    """The cast of torch, clamped first, as casts overflow differently from version to version."""
    dtype = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}[name]
    top = torch.finfo(dtype).max
    return x.clamp(-top, top).to(dtype).to(torch.float32)


def table_oracle(x: Tensor) -> Tensor:
    """E2M1 by a search in the eight magnitudes; each boundary is the first one that rounds up."""
    after = np.nextafter(np.array([0.25, 1.25, 2.5, 5.0], np.float32), np.float32(9))
    boundaries = np.sort(np.concatenate([after, np.array([0.75, 1.75, 3.5], np.float32)]))
    magnitudes = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    found = magnitudes[np.searchsorted(boundaries, np.abs(x.numpy()), side="right")]
    return torch.where(x.isnan(), x, torch.from_numpy(found).copysign(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2", "fp4_e2m1"])
def test_nearest_is_right_for_every_float32_there_is(
    name: str, same_bits: Callable[[Tensor, Tensor], bool]
) -> None:
    chunk = 2**23
    format = FLOATS[name]
    for start in range(-(2**31), 2**31, chunk):
        x = (
            torch.arange(start, start + chunk, dtype=torch.int64)
            .to(torch.int32)
            .view(torch.float32)
        )
        expected = table_oracle(x) if name == "fp4_e2m1" else torch_oracle(x, name)
        assert same_bits(format.round(x), expected), hex(start % 2**32)
