"""Format: what every format keeps, whatever it is: codes, special values, shapes, variants."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from qbench_formats import FORMATS
from qbench_suite import Format, FormatError, IdentityFormat, Rounding

LISTED = [f for f in FORMATS if not isinstance(f, IdentityFormat)]
BY_NAME = {f.name: f for f in FORMATS}
ids = {"ids": lambda entry: entry.name}


@dataclass(frozen=True, kw_only=True)
class Halves(Format):
    """A third party's format: a code table and a round, nothing else."""

    bits: int = 3

    @property
    def code_table(self) -> Mapping[int, float]:
        return {code: code / 2 for code in range(8)}

    def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
        return (torch.round(x.to(torch.float32) * 2) / 2).clamp(0, 3.5)


@pytest.mark.parametrize("format", LISTED, **ids)
def test_every_code_survives_decoding_and_encoding(format: Format) -> None:
    codes = torch.tensor(sorted(format.code_table))
    decoded = format.decode(codes)
    assert decoded.dtype == torch.float32
    assert [str(v) for v in decoded.tolist()] == [str(format.code_table[c]) for c in codes.tolist()]
    expected = codes.clone()
    if format.nan_codes:
        expected[decoded.isnan()] = codes[decoded.isnan()].min()
    encoded = format.encode(decoded)
    assert encoded.dtype == (torch.uint8 if format.bits <= 8 else torch.int32)
    assert torch.equal(encoded.to(torch.int64), expected)


@pytest.mark.parametrize("format", LISTED, **ids)
def test_values_are_on_their_own_grid(
    format: Format, same_bits: Callable[[Tensor, Tensor], bool]
) -> None:
    values = torch.tensor(format.values)
    zeros = torch.zeros_like(values)
    for rounding in Rounding:
        assert same_bits(format.variant(rounding).round(values, noise=zeros), values)
    assert format.contains(values).all()


@pytest.mark.parametrize("format", LISTED, **ids)
def test_encode_refuses_what_is_off_the_grid(format: Format) -> None:
    value = format.values[-1]
    words = rf"encode takes values of {format.name} only; got .*, one of 2 .*Round them first"
    with pytest.raises(FormatError, match=words):
        format.encode(torch.tensor([value, value * 0.9876, value * 0.9876]))


@pytest.mark.parametrize("format", LISTED, **ids)
def test_nan_and_infinities_have_a_code_where_the_table_has_one(format: Format) -> None:
    for special in (math.nan, math.inf, -math.inf):
        x = torch.tensor([special])
        known = [c for c, v in sorted(format.code_table.items()) if str(v) == str(special)]
        if known:
            assert format.encode(x).tolist() == known[:1]
        else:
            with pytest.raises(FormatError, match="without a code"):
                format.encode(x)


@pytest.mark.parametrize("format", LISTED, **ids)
def test_codes_not_in_use_decode_to_nan(format: Format) -> None:
    unused = sorted(set(range(2**format.bits)) - set(format.code_table))
    if unused:
        assert format.decode(torch.tensor(unused)).isnan().all()


@pytest.mark.parametrize("format", LISTED, **ids)
def test_contains_agrees_with_the_table(format: Format) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2000, generator=generator) * min(format.max, 1e30) / 2
    x = torch.cat([x, format.round(x), torch.tensor([math.nan, math.inf, -math.inf, -0.0])])
    known = set(format.values)
    assert format.contains(x).tolist() == [v in known for v in x.tolist()]


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("format", FORMATS, **ids)
def test_nan_stays_nan_and_infinities_saturate(format: Format, rounding: Rounding) -> None:
    x = torch.tensor([torch.nan, torch.inf, -torch.inf])
    rounded = format.variant(rounding).round(x, noise=torch.zeros(3))
    assert rounded[0].isnan()
    if not isinstance(format, IdentityFormat):
        assert rounded[1:].tolist() == [format.values[-1], format.values[0]]


@pytest.mark.parametrize("format", FORMATS, **ids)
def test_shapes_strides_and_dtypes_do_not_matter(format: Format) -> None:
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    whole = format.round(x)
    assert whole.dtype == torch.float32
    assert torch.equal(format.round(x.t()), whole.t())
    assert torch.equal(format.round(x[::2, 1::3]), whole[::2, 1::3])
    assert torch.equal(format.round(x[:1].expand(3, 8)), whole[:1].expand(3, 8))
    assert format.round(x[0, 0]).shape == ()
    assert torch.equal(format.round(x[0, 0]), whole[0, 0])
    assert format.round(torch.empty(0, 3)).shape == (0, 3)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        narrow = x.to(dtype)
        assert torch.equal(format.round(narrow), format.round(narrow.to(torch.float32)))
        assert format.round(narrow).dtype == torch.float32


@pytest.mark.parametrize("format", LISTED, **ids)
def test_rounding_leaves_its_input_alone(format: Format) -> None:
    x = torch.tensor([0.3, -7.7, torch.nan, -0.0])
    before = x.clone()
    format.round(x)
    assert torch.equal(x.view(torch.int32), before.view(torch.int32))


@pytest.mark.parametrize("format", LISTED, **ids)
def test_stochastic_rounding_is_unbiased_between_neighbours_only(format: Format) -> None:
    values = format.values
    low, high = values[len(values) // 2], values[len(values) // 2 + 1]
    draws = 200_000
    for share in (0.25, 0.7):
        x = torch.tensor(low + (high - low) * share)
        exact_share = (float(x) - low) / (high - low)
        noise = torch.rand(draws, generator=torch.Generator().manual_seed(11))
        rounded = format.variant("stochastic").round(x.expand(draws), noise=noise)
        assert set(rounded.tolist()) == {low, high}
        up = float((rounded == high).to(torch.float64).mean())
        deviation = math.sqrt(exact_share * (1 - exact_share) / draws)
        assert abs(up - exact_share) < 4.5 * deviation


@pytest.mark.parametrize("format", LISTED, **ids)
def test_stochastic_rounding_keeps_to_the_neighbours(format: Format) -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(20_000, generator=generator) * min(format.max, 1e30) / 2
    noise = torch.rand(20_000, generator=generator)
    table = torch.tensor(format.values)
    rounded = format.variant("stochastic").round(x, noise=noise)
    never = format.variant("stochastic").round(x, noise=torch.full_like(x, 1 - 2.0**-24))
    always = format.variant("stochastic").round(x, noise=torch.zeros_like(x))
    assert ((rounded == never) | (rounded == always)).all()
    assert torch.equal(never, format.variant("truncate").round(x))
    bounded = x.clamp(format.values[0], format.values[-1])
    steps = torch.bucketize(always, table) - torch.bucketize(never, table)
    assert torch.equal(steps.abs(), (~format.contains(bounded)).to(torch.int64))


def test_a_variant_is_the_same_format_under_another_name() -> None:
    e4m3 = BY_NAME["fp8_e4m3"]
    stochastic = e4m3.variant("stochastic")
    assert stochastic.name == "fp8_e4m3+stochastic"
    assert stochastic.rounding is Rounding.STOCHASTIC
    assert (stochastic.noisy, e4m3.noisy) == (True, False)
    assert stochastic.values == e4m3.values
    assert stochastic.variant("spec").name == "fp8_e4m3+stochastic+spec"
    assert e4m3.variant("spec").overflow == "spec"
    assert e4m3.name == "fp8_e4m3"


@pytest.mark.parametrize("format", FORMATS, **ids)
def test_an_unknown_variant_is_refused(format: Format) -> None:
    words = r"one of nearest, away, stochastic, truncate, saturate, spec; got 'up'"
    with pytest.raises(FormatError, match=words):
        format.variant("up")


def test_a_table_and_a_round_are_enough_for_a_format() -> None:
    halves = Halves(name="halves")
    x = torch.tensor([-1.0, 0.3, 0.25, 9.0])
    assert (halves.max, halves.smallest, halves.has_negative_zero) == (3.5, 0.5, False)
    assert halves.encode(halves.round(x)).tolist() == [0, 1, 0, 7]
    assert halves.contains(x).tolist() == [False, False, False, False]
    kernel = halves.round_kernel(torch.device("cpu"))
    assert kernel.constants == ()
    assert torch.equal(kernel.function(x, None), halves.round(x))


def test_kernels_of_equal_formats_are_equal() -> None:
    cpu = torch.device("cpu")
    first, second = (Halves(name="halves").round_kernel(cpu).function for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != Halves(name="other").round_kernel(cpu).function


def test_formats_are_frozen() -> None:
    with pytest.raises(AttributeError):
        BY_NAME["int8"].name = "other"  # type: ignore[misc]
