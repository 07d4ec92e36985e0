"""The grid rule: what a quantizer gives passes, whatever is planted is found."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qbench_suite import (
    CodebookFormat,
    FakeQuantized,
    FloatFormat,
    Format,
    FormatError,
    IntFormat,
    Mode,
    Overflow,
    PerChannel,
    PerChunk,
    PerTensor,
    PowerOfTwo,
    Quantizer,
    Rounding,
    Specials,
)
from qbench_suite.compliance import check_grid
from qbench_suite.scaling.compiling import eager

FP8 = FloatFormat(name="fp8", exponent_bits=4, mantissa_bits=3, specials=Specials.FN)
FP8_INF = FloatFormat(name="fp8_inf", exponent_bits=5, mantissa_bits=2)
FP4 = FloatFormat(name="fp4", exponent_bits=2, mantissa_bits=1, specials=Specials.NONE)
INT8 = IntFormat(name="int8", bits=8, low=-127, high=127)
UINT8 = IntFormat(name="uint8", bits=8, low=0, high=255, affine=True)
THIRDS = CodebookFormat(name="thirds", bits=2, values=(-1.0, -0.3125, 0.3125, 1.0))
BF16 = FloatFormat(name="bf16", exponent_bits=8, mantissa_bits=7, unit_scale=True)
NAME_OF = operator.attrgetter("name")
FORMATS = (FP8, FP8_INF, FP4, INT8, UINT8, THIRDS)

TENSOR = Mode(name="tensor", granularity=PerTensor())
CHANNEL = Mode(name="channel", granularity=PerChannel())
CHUNK = Mode(name="chunk4", granularity=PerChunk(4))
MX = Mode(name="mx4", granularity=PerChunk(4), rule=PowerOfTwo())


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    with eager():
        yield


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantized(format: Format, mode: Mode, x: Tensor) -> FakeQuantized:
    return Quantizer(format, mode).fake_quantize(x)


def planted(result: FakeQuantized, index: tuple[int, ...], value: float) -> FakeQuantized:
    values = result.values.clone()
    values[index] = value
    return replace(result, values=values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("mode", [TENSOR, CHANNEL, CHUNK, MX], ids=NAME_OF)
@pytest.mark.parametrize("format", FORMATS, ids=NAME_OF)
def test_what_a_quantizer_gives_is_compliant(
    format: Format, mode: Mode, dtype: torch.dtype
) -> None:
    if mode.misfit(format):
        return
    x = normal(64, 36).to(dtype)
    verdict = check_grid(quantized(format, mode, x), x)
    assert verdict.compliant, verdict.examples
    assert (verdict.checked, verdict.violations) == (64 * 36, 0)


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("format", [FP8, FP4, INT8, UINT8, THIRDS], ids=NAME_OF)
def test_every_rounding_is_compliant(
    format: Format, rounding: Rounding, dtype: torch.dtype
) -> None:
    x = normal(256, 36).to(dtype)
    variant = replace(format, rounding=rounding)
    for mode in (TENSOR, CHUNK):
        verdict = check_grid(quantized(variant, mode, x), x)
        assert verdict.compliant, verdict.examples


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(-30, 30), st.sampled_from([FP8, INT8, UINT8]))
def test_no_seed_or_magnitude_gives_a_false_alarm(seed: int, power: int, format: Format) -> None:
    x = (normal(16, 64, seed=seed) * 2.0**power).bfloat16()
    verdict = check_grid(quantized(format, CHUNK, x), x)
    assert verdict.compliant, verdict.examples


@pytest.mark.parametrize("power", [-14, -18, -22])
def test_subnormal_float16_give_no_false_alarm(power: int) -> None:
    x = (normal(32, 32) * 2.0**power).half()
    verdict = check_grid(quantized(INT8, CHUNK, x), x)
    assert verdict.compliant, verdict.examples


@pytest.mark.parametrize("format", FORMATS, ids=NAME_OF)
def test_value_between_two_neighbours_is_found(format: Format) -> None:
    x = normal(5, 8)
    result = quantized(format, TENSOR, x)
    scale = float(result.scale)
    zero_point = 0.0 if result.zero_point is None else float(result.zero_point)
    low, high = format.values[-2], format.values[-1]
    wrong = (low + 0.4 * (high - low) - zero_point) * scale
    verdict = check_grid(planted(result, (3, 2), wrong), x)
    (found,) = verdict.examples
    assert (verdict.violations, verdict.compliant) == (1, False)
    assert found.index == (3, 2)
    assert found.value == pytest.approx(wrong, rel=1e-6)
    assert found.scale == pytest.approx(scale)
    assert found.nearest == pytest.approx((low - zero_point) * scale, rel=1e-5)
    assert str(found).startswith("[3, 2] = ")
    assert "nearest legal" in str(found)


def test_neighbouring_float_is_found() -> None:
    x = normal(3, 8)
    result = quantized(FP8, CHUNK, x)
    value = float(torch.nextafter(result.values[1, 6], torch.tensor(math.inf)))
    verdict = check_grid(planted(result, (1, 6), value), x)
    assert [v.index for v in verdict.examples] == [(1, 6)]


def test_value_beyond_the_largest_is_found() -> None:
    result = quantized(INT8, TENSOR, normal(4, 4))
    wrong = 128 * float(result.scale)
    (found,) = check_grid(planted(result, (0, 0), wrong)).examples
    assert found.nearest == pytest.approx(127 * float(result.scale))


def test_value_of_another_groups_scale_is_found() -> None:
    x = torch.tensor([[1.0, 0.5, 0.25, 0.1, 30.0, 7.0, 0.3, 9.0]])
    result = quantized(INT8, CHUNK, x)
    swapped = replace(result, scale=result.scale.flip(1))
    verdict = check_grid(swapped, x)
    assert verdict.violations > 4
    assert verdict.examples[0].scale == pytest.approx(30 / 127)


def test_wrong_zero_point_is_found() -> None:
    x = normal(4, 8).abs() + 1
    result = quantized(UINT8, CHANNEL, x)
    assert result.zero_point is not None
    assert check_grid(result, x).compliant
    moved = replace(result, zero_point=result.zero_point + 7)
    assert not check_grid(moved, x).compliant


def test_first_few_violations_are_given_as_examples() -> None:
    result = quantized(INT8, TENSOR, normal(4, 8))
    spoilt = replace(result, values=result.values + 0.4 * float(result.scale))
    verdict = check_grid(spoilt, examples=2)
    assert verdict.violations == 32
    assert [v.index for v in verdict.examples] == [(0, 0), (0, 1)]


@pytest.mark.parametrize("format", FORMATS, ids=NAME_OF)
def test_nan_is_legal_only_where_the_source_is_nan(format: Format) -> None:
    x = normal(4, 8)
    x[1, 2] = math.nan
    result = quantized(format, TENSOR, x)
    assert check_grid(result, x).compliant
    assert check_grid(result).compliant, "without a source NaN is given the benefit of the doubt"
    verdict = check_grid(planted(result, (0, 5), math.nan), x)
    assert [v.index for v in verdict.examples] == [(0, 5)]


@pytest.mark.parametrize("infinity", [math.inf, -math.inf])
def test_infinity_is_illegal_where_the_format_saturates(infinity: float) -> None:
    x = normal(4, 8)
    x[1, 2] = infinity
    result = quantized(FP8_INF, TENSOR, x)
    assert check_grid(result, x).compliant
    assert check_grid(planted(result, (1, 2), infinity), x).violations == 1
    assert check_grid(planted(result, (1, 2), infinity)).violations == 1


@pytest.mark.parametrize(("format", "special"), [(FP8_INF, math.inf), (FP8, math.nan)])
def test_overflow_by_specification_is_legal_where_the_source_overflows(
    format: Format, special: float
) -> None:
    spec = replace(format, overflow=Overflow.SPEC)
    x = normal(4, 8)
    x[1, 2] = math.inf
    result = quantized(spec, TENSOR, x)
    assert not result.values[1, 2].isfinite()
    assert check_grid(result, x).compliant
    assert check_grid(planted(result, (0, 0), special), x).violations == 1


def test_overflow_by_specification_needs_a_special_value() -> None:
    spec = replace(FP4, overflow=Overflow.SPEC)
    x = normal(4, 8)
    x[1, 2] = math.inf
    result = quantized(spec, TENSOR, x)
    assert check_grid(result, x).compliant
    assert check_grid(planted(result, (1, 2), math.inf), x).violations == 1


def test_format_without_scale_is_its_own_grid() -> None:
    x = normal(4, 8)
    result = quantized(BF16, TENSOR, x)
    assert check_grid(result, x).compliant
    assert check_grid(replace(result, values=x), x).violations > 20


def test_zeros_of_either_sign_are_legal() -> None:
    x = torch.zeros(2, 8)
    x[0, 0] = -0.0
    for format in (FP8, INT8, UINT8):
        assert check_grid(quantized(format, CHUNK, x), x).compliant


@pytest.mark.parametrize("shape", [(0,), (0, 8), (1,), ()])
def test_tensors_with_little_in_them(shape: tuple[int, ...]) -> None:
    x = torch.ones(shape)
    verdict = check_grid(quantized(INT8, TENSOR, x), x)
    assert (verdict.checked, verdict.compliant) == (x.numel(), True)


def test_format_that_rounds_off_its_values_is_found() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Sloppy(CodebookFormat):
        def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
            return super().round(x) * 0.99

    sloppy = Sloppy(name="sloppy", bits=2, values=(-1.0, 0.0, 0.5, 1.0))
    x = normal(4, 8)
    verdict = check_grid(quantized(sloppy, TENSOR, x), x)
    assert verdict.violations > 10


def test_any_result_with_scales_can_be_checked() -> None:
    values = torch.tensor([[0.5, 1.0], [1.5, 2.5]])
    result = FakeQuantized(
        values=values,
        scale=torch.tensor([[0.5], [0.25]]),
        zero_point=None,
        group_shape=(1, 2),
        format=IntFormat(name="int3", bits=3, low=-3, high=3),
        mode=CHANNEL,
    )
    found = check_grid(result).examples
    assert [v.index for v in found] == [(1, 0), (1, 1)]
    assert [v.nearest for v in found] == [0.75, 0.75]


def test_rounding_that_returns_another_shape_is_an_error_not_a_pass() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Scalar(CodebookFormat):
        def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
            return super().round(x).amax()

    scalar = Scalar(name="scalar", bits=2, values=(-1.0, 0.0, 1.0))
    result = replace(quantized(THIRDS, TENSOR, normal(4, 8)), format=scalar)
    with pytest.raises(FormatError, match=r"scalar returned \(\) for \(4, 8\)"):
        check_grid(result)


@pytest.mark.parametrize("format", FORMATS, ids=NAME_OF)
def test_neighbours_are_the_legal_values_on_either_side(format: Format) -> None:
    x = normal(5, 8)
    result = quantized(format, TENSOR, x)
    scale = float(result.scale)
    zero_point = 0.0 if result.zero_point is None else float(result.zero_point)
    low, high = format.values[1], format.values[2]
    wrong = (low + 0.4 * (high - low) - zero_point) * scale
    (found,) = check_grid(planted(result, (3, 2), wrong), x).examples
    assert found.below == pytest.approx((low - zero_point) * scale, rel=1e-6)
    assert found.above == pytest.approx((high - zero_point) * scale, rel=1e-6)


def test_neighbours_beyond_the_largest_value_and_of_nan() -> None:
    x = normal(4, 4)
    result = quantized(INT8, TENSOR, x)
    top = 127 * float(result.scale)
    (found,) = check_grid(planted(result, (0, 0), 2 * top), x).examples
    assert (found.below, found.above) == (pytest.approx(top), None)
    (found,) = check_grid(planted(result, (0, 0), -2 * top), x).examples
    assert (found.below, found.above) == (None, pytest.approx(-top))
    (found,) = check_grid(planted(result, (0, 0), math.nan), x).examples
    assert (found.below, found.above) == (None, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_tolerance_counts_units_in_the_last_place(steps: int, dtype: torch.dtype) -> None:
    x = normal(3, 8).to(dtype)
    result = quantized(INT8, CHUNK, x)
    index = (1, int(x[1].abs().argmax()))
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    values = result.values.clone()
    values[index] = (values[index].view(bits) + steps).view(dtype)
    moved = replace(result, values=values)
    assert check_grid(moved, x).violations == 1
    assert check_grid(moved, x, ulps=steps).compliant
    assert check_grid(moved, x, ulps=steps - 1).compliant == (steps == 0)


@pytest.mark.parametrize("factor", [-1.0, 0.0, math.inf, math.nan])
def test_a_scale_that_is_none_is_found(factor: float) -> None:
    result = quantized(INT8, CHUNK, normal(2, 8))
    scale = result.scale.clone()
    scale[1, 0] *= factor
    assert check_grid(replace(result, scale=scale)).violations == 4


@pytest.mark.parametrize("zero_point", [3.5, 300.0, -1.0, math.nan])
def test_a_zero_point_that_is_no_integer_of_the_format_is_found(zero_point: float) -> None:
    result = quantized(UINT8, TENSOR, normal(2, 8))
    spoilt = replace(result, zero_point=torch.full_like(result.scale, zero_point))
    assert check_grid(spoilt).violations == 16
