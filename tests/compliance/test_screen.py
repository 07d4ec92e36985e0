"""The screen: passes nothing that the grid rule refuses, and nearly all that it lets pass."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qbench_formats import FORMATS
from qbench_modes import MODES
from qbench_suite import CodebookFormat, FakeQuantized, FloatFormat, Quantizer, Rounding, Specials
from qbench_suite.compliance import check_grid, screen

QUANTIZERS = [
    Quantizer(format, mode)
    for format, mode in itertools.product(FORMATS, MODES)
    if not mode.misfit(format) and not format.scale_only and format.name != "fp32"
]
BY_NAME = {str(q): q for q in QUANTIZERS}
#: Places that a mistake is planted at: first, last, and in between.
PLACES = [0, 1, 777, -1]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def altered(result: FakeQuantized, place: int, change: Callable[[Tensor], Tensor]) -> FakeQuantized:
    values = result.values.clone()
    flat = values.view(-1)
    flat[place] = change(flat[place])
    return replace(result, values=values)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_what_a_quantizer_gives_passes(quantizer: Quantizer) -> None:
    for shape in ((), (7,), (33, 70), (2, 5, 6, 7)):
        assert screen.passes(quantizer.fake_quantize(normal(*shape) * 3))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_one_value_next_to_the_grid_does_not_pass(quantizer: Quantizer, place: int) -> None:
    x = normal(33, 70).abs() + 0.5
    result = quantizer.fake_quantize(x)
    up = torch.tensor(math.inf)
    spoilt = altered(result, place, lambda v: torch.nextafter(torch.nextafter(v, up), up))
    assert not screen.passes(spoilt)
    assert check_grid(spoilt, x).violations == 1


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(BY_NAME)),
    st.integers(0, 10**6),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.integers(0, 8),
)
def test_it_never_passes_what_the_grid_rule_refuses(
    name: str, seed: int, dtype: torch.dtype, mistakes: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(9, 40, generator=generator) * 4).to(dtype)
    result = BY_NAME[name].fake_quantize(x)
    values = result.values.clone().view(-1)
    for place in torch.randint(values.numel(), (mistakes,), generator=generator).tolist():
        bits = {2: torch.int16, 4: torch.int32}[values.element_size()]
        values[place] = (values[place].view(bits) ^ (1 << (place % 10))).view(dtype)
    spoilt = replace(result, values=values.view(9, 40))
    if screen.passes(spoilt):
        assert check_grid(spoilt, x).compliant


@pytest.mark.parametrize("block", [1, 3, 64])
@pytest.mark.parametrize(
    "name", ["int8-channel", "uint8-token", "nf4-chunk128", "fp8_e4m3-mx32", "fp4_e2m1-nv16"]
)
def test_every_block_is_looked_at(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "_BLOCK", block)
    x = normal(3, 2, 4, 5)
    result = BY_NAME[name].fake_quantize(x)
    assert screen.passes(result)
    for place in range(0, x.numel(), 7):
        assert not screen.passes(altered(result, place, lambda v: v * 1.00001 + 1e-4))


def test_strides_do_not_matter() -> None:
    x = normal(4, 6, 5).permute(2, 0, 1)
    result = BY_NAME["int8-channel"].fake_quantize(x)
    assert screen.passes(result)
    sliced = replace(result, values=result.values[:, ::2], group_shape=(5, 2, 1))
    assert screen.passes(sliced)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_none_does_not_pass(scale: float) -> None:
    result = BY_NAME["int8-tensor"].fake_quantize(torch.zeros(3))
    assert not screen.passes(replace(result, scale=torch.full_like(result.scale, scale)))


@pytest.mark.parametrize("zero_point", [3.5, 256.0, -1.0, math.nan])
def test_a_zero_point_that_is_none_does_not_pass(zero_point: float) -> None:
    result = BY_NAME["uint8-tensor"].fake_quantize(torch.zeros(3))
    spoilt = replace(result, zero_point=torch.full_like(result.scale, zero_point))
    assert not screen.passes(spoilt)


def test_nan_is_left_to_the_grid_rule() -> None:
    x = torch.tensor([1.0, math.nan])
    result = BY_NAME["int8-tensor"].fake_quantize(x)
    assert not screen.passes(result)
    assert check_grid(result, x).compliant


@dataclass(frozen=True, kw_only=True)
class OffByAnUlp(FloatFormat):
    """Rounds one code to the float next to it."""

    def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
        r = super().round(x)
        return torch.where(r == 1.5, torch.nextafter(r, torch.tensor(2.0)), r)


@dataclass(frozen=True, kw_only=True)
class TableOffByAnUlp(CodebookFormat):
    """Likewise, by table."""

    def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
        r = super().round(x)
        return torch.where(r == 0.5, torch.nextafter(r, torch.tensor(2.0)), r)


OFF = [
    OffByAnUlp(name="off", exponent_bits=4, mantissa_bits=3, specials=Specials.FN),
    TableOffByAnUlp(name="off_table", bits=2, values=(-1.0, 0.0, 0.5, 1.0)),
]


@pytest.mark.parametrize("format", OFF, ids=lambda format: format.name)
def test_a_round_that_is_off_at_one_code_does_not_hide_itself(format: FloatFormat) -> None:
    x = torch.cat(
        [torch.linspace(-2, 2, 801).clamp(-format.max, format.max), torch.tensor([format.max])]
    )
    result = Quantizer(format, BY_NAME["int8-tensor"].mode).fake_quantize(x)
    assert not screen.passes(result)
    found = check_grid(result, x)
    assert not found.compliant
    assert all(v.below is not None and v.above is not None for v in found.examples)
    assert all(v.below < v.value < v.above for v in found.examples)  # type: ignore[operator]


@pytest.mark.parametrize("rounding", list(Rounding))
def test_every_rounding_passes(rounding: Rounding) -> None:
    for name in ("fp8_e4m3-tensor", "int8-channel", "nf4-tensor"):
        quantizer = BY_NAME[name]
        format = replace(quantizer.format, rounding=rounding)
        assert screen.passes(Quantizer(format, quantizer.mode).fake_quantize(normal(30, 40)))
