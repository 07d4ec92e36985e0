"""Quantizer: bit-equal to a NumPy loop over groups, whatever the shape, strides and values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from qbench_formats import FORMATS
from qbench_modes import MODES
from qbench_suite import (
    Axes,
    CodebookFormat,
    FakeQuantized,
    FloatFormat,
    Format,
    FormatError,
    Granularity,
    IntFormat,
    Mode,
    ModeError,
    PerBlock,
    PerChannel,
    PerChunk,
    PerTensor,
    PerToken,
    PowerOfTwo,
    Quantizer,
    ScaleRule,
    TwoLevel,
)

BY_NAME = {f.name: f for f in FORMATS}
SHIPPED = {m.name: m for m in MODES}
GRANULARITIES: dict[str, Granularity] = {
    "tensor": PerTensor(),
    "channel": PerChannel(),
    "token": PerToken(),
    "chunk5": PerChunk(5),
    "chunk16": PerChunk(16),
    "block2x3": PerBlock(2, 3),
    "block128x128": PerBlock(128, 128),
}
RULES: dict[str, ScaleRule] = {"mx": PowerOfTwo(), "rceil": PowerOfTwo(ceil=True), "nv": TwoLevel()}
#: Every granularity by absolute maxima, and every rule over small chunks, so that some are ragged.
SMALL_MODES = [Mode(name=n, granularity=g) for n, g in GRANULARITIES.items()] + [
    Mode(name=f"{name}4", granularity=PerChunk(4), rule=rule) for name, rule in RULES.items()
]
FITTING = [
    Quantizer(format, mode)
    for format, mode in itertools.product(FORMATS, SMALL_MODES)
    if not mode.misfit(format)
]
FLT_MAX = 3.4028234663852886e38

SameBits = Callable[[Tensor, Tensor], bool]
Hard = Callable[..., Tensor]
Reference = Callable[[Quantizer, Tensor, Axes], Any]


def check_against(
    reference: Reference, same_bits: SameBits, quantizer: Quantizer, x: Tensor, axes: Axes
) -> FakeQuantized:
    """Values, scales and zero points are those of the reference, bit for bit."""
    got = quantizer.fake_quantize(x, axes)
    expected = reference(quantizer, x, axes)
    assert got.scale.shape == expected.scale.shape
    assert same_bits(got.scale, torch.from_numpy(expected.scale))
    assert same_bits(got.values, torch.from_numpy(expected.values).to(x.dtype))
    if got.zero_point is not None:
        assert torch.equal(got.zero_point, torch.from_numpy(expected.zero_point))
    assert (got.values.shape, got.values.dtype) == (x.shape, x.dtype)
    return got


@pytest.mark.parametrize("quantizer", FITTING, ids=str)
def test_results_equal_the_reference_in_every_format_and_mode(
    quantizer: Quantizer, hard: Hard, reference: Reference, same_bits: SameBits
) -> None:
    flavours = ["normal", "outliers", "zeros", "special", "huge", "small"]
    for seed, (flavour, shape) in enumerate(
        itertools.product(flavours, [(), (11,), (7, 10), (2, 3, 4, 3)])
    ):
        x = hard(shape, flavour, seed)
        for axes in (Axes.features(len(shape)), Axes.weight(len(shape))):
            check_against(reference, same_bits, quantizer, x, axes)


@st.composite
def strided(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool]:
    """A shape, an order of its axes in memory, a step of slicing along each, whether to expand."""
    rank = draw(st.integers(0, 4))
    longest = {0: 1, 1: 70, 2: 24, 3: 9, 4: 6}[rank]
    shortest = draw(st.sampled_from([1, 1, 1, 0]))
    shape = tuple(draw(st.integers(shortest, longest)) for _ in range(rank))
    order = tuple(draw(st.permutations(range(rank))))
    steps = tuple(draw(st.sampled_from([1, 1, 2, 3])) for _ in range(rank))
    return shape, order, steps, draw(st.booleans())


def lay_out(hard: Hard, layout: tuple[Any, Any, Any, bool], flavour: str, seed: int) -> Tensor:
    """A tensor of the layout drawn: permuted, sliced, perhaps with a repeated axis of stride 0."""
    shape, order, steps, expanded = layout
    lengths = [max(n * s - (s - 1), 0) for n, s in zip(shape, steps, strict=True)]
    memory = hard(tuple(lengths[i] for i in order), flavour, seed)
    x = memory.permute([order.index(i) for i in range(len(shape))])
    for axis, step in enumerate(steps):
        x = x[(slice(None),) * axis + (slice(None, None, step),)]
    assert tuple(x.shape) == shape
    if expanded and shape and shape[0] > 1:
        x = x[:1].expand(shape)
    return x


@settings(
    max_examples=400,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_results_equal_the_reference_whatever_the_strides(
    data: st.DataObject, hard: Hard, reference: Reference, same_bits: SameBits
) -> None:
    quantizer = data.draw(st.sampled_from(FITTING))
    layout = data.draw(strided())
    flavour = data.draw(
        st.sampled_from(
            ["normal", "outliers", "zeros", "special", "huge", "small", "subnormal", "powers"]
        )
    )
    dtype = data.draw(
        st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float64])
    )
    x = lay_out(hard, layout, flavour, data.draw(st.integers(0, 9))).to(dtype)
    rank = x.dim()
    axis = data.draw(st.integers(0, rank - 1)) if rank else None
    axes = data.draw(st.sampled_from([Axes.features(rank, axis), Axes.weight(rank)]))
    got = check_against(reference, same_bits, quantizer, x, axes)
    dense = quantizer.fake_quantize(x.contiguous(), axes)
    assert same_bits(got.values, dense.values)


@pytest.mark.parametrize("quantizer", FITTING, ids=str)
def test_every_value_is_exactly_a_number_of_the_format_times_its_scale(
    quantizer: Quantizer, hard: Hard
) -> None:
    format = quantizer.format
    flavours = ["normal", "outliers", "subnormal", "huge", "powers"]
    for flavour, shape in itertools.product(flavours, [(7, 10), (2, 3, 4, 3), (9,)]):
        fake = quantizer.fake_quantize(hard(shape, flavour), Axes.weight(len(shape)))
        scale, zero_point = fake.spread_scale(), fake.spread_zero_point()
        assert fake.values.isfinite().all()
        q = (fake.values / scale).nan_to_num()
        if zero_point is None:
            q = format.round(q)
        else:
            q = torch.round(q)
            assert format.contains(q + zero_point).all()
        assert torch.equal(q * scale, fake.values), (flavour, shape)


@pytest.mark.parametrize("quantizer", FITTING, ids=str)
def test_groups_of_zeros_have_scale_one_and_stay_zero(quantizer: Quantizer) -> None:
    x = torch.zeros(4, 12)
    x[1] = -0.0
    fake = quantizer.fake_quantize(x, Axes.weight(2))
    assert (fake.scale == 1).all()
    assert (fake.values == 0).all()
    if fake.zero_point is not None:
        assert (fake.zero_point == 0).all()


@pytest.mark.parametrize("quantizer", [q for q in FITTING if not q.format.unit_scale], ids=str)
def test_nan_and_infinities_leave_the_other_elements_alone(
    quantizer: Quantizer, hard: Hard, same_bits: SameBits
) -> None:
    x = hard((6, 8), "normal")
    x[2, 3] = 0
    clean = quantizer.fake_quantize(x, Axes.weight(2))
    for special in (torch.nan, torch.inf, -torch.inf):
        y = x.clone()
        y[2, 3] = special
        fake = quantizer.fake_quantize(y, Axes.weight(2))
        assert same_bits(fake.scale, clean.scale)
        others = torch.ones_like(x, dtype=torch.bool)
        others[2, 3] = False
        assert same_bits(fake.values[others], clean.values[others])
        if math.isnan(special):
            assert fake.values[2, 3].isnan()
        elif fake.zero_point is None:
            extreme = quantizer.format.values[-1 if special > 0 else 0]
            assert fake.values[2, 3] == extreme * fake.spread_scale()[2, 3]
        else:
            zero_point = fake.spread_zero_point()
            assert zero_point is not None
            q = (255 if special > 0 else 0) - zero_point[2, 3]
            assert fake.values[2, 3] == q * fake.spread_scale()[2, 3]


@pytest.mark.parametrize("mode", SMALL_MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize(("format", "special"), [("fp8_e4m3", torch.nan), ("fp8_e5m2", torch.inf)])
def test_infinities_follow_the_specification_where_the_format_does(
    format: str, special: float, mode: Mode
) -> None:
    x = torch.tensor([[1.0, torch.inf, -torch.inf, torch.nan]])
    quantizer = Quantizer(BY_NAME[format].variant("spec"), mode)
    got = quantizer.fake_quantize(x, Axes.weight(2)).values[0]
    assert torch.equal(got[1:3].isnan(), torch.tensor([special, -special]).isnan())
    if special == torch.inf:
        assert got[1:3].tolist() == [torch.inf, -torch.inf]
    assert got[0].isfinite()
    assert got[3].isnan()


@pytest.mark.parametrize("quantizer", FITTING, ids=str)
def test_the_largest_and_smallest_float32_stay_finite(quantizer: Quantizer) -> None:
    for value in (FLT_MAX, -FLT_MAX, 2.0**-126, 1e-45, 3.3e38):
        x = torch.full((3, 9), value)
        x[:, ::2] *= 0.37
        assert quantizer.fake_quantize(x, Axes.weight(2)).values.isfinite().all()


def test_ragged_ends_keep_a_scale_of_their_own() -> None:
    stem = torch.randn(8, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    for mode in ("chunk128", "mx32", "nv16"):
        fake = Quantizer(BY_NAME["fp8_e4m3"], SHIPPED[mode]).fake_quantize(stem, Axes.weight(4))
        assert fake.scale.shape == (8, 1, 7, 7)
        # The worst is saturation under an exponent rounded down: 448 of 512 is left.
        assert ((fake.values - stem).abs() <= 0.1251 * stem.abs().amax(dim=1, keepdim=True)).all()
    x = torch.ones(2, 300)
    x[:, 256:] = 1e-4
    fake = Quantizer(BY_NAME["int8"], SHIPPED["chunk128"]).fake_quantize(x)
    assert fake.scale.shape == (2, 3)
    assert torch.allclose(fake.values, x, rtol=1e-6)
    assert torch.allclose(fake.scale[:, 2] * 127, torch.tensor(1e-4))


def test_rounding_the_mx_exponent_up_saturates_nothing_and_down_saturates_some() -> None:
    x = torch.randn(650, 32, generator=torch.Generator().manual_seed(0))
    lost = {}
    for mode in ("mx32", "mx32_rceil"):
        fake = Quantizer(BY_NAME["fp8_e4m3"], SHIPPED[mode]).fake_quantize(x)
        lost[mode] = int(((x / fake.spread_scale()).abs() > 448).any(dim=1).sum())
    assert lost["mx32_rceil"] == 0
    assert lost["mx32"] > 50


@pytest.mark.parametrize("shift", [-3.0, 0.0, 0.7, 1000.0])
def test_zero_is_exact_in_an_affine_format(shift: float) -> None:
    x = torch.rand(6, 50, generator=torch.Generator().manual_seed(1)) + shift
    x[:, 7] = 0
    for mode in ("tensor", "channel", "token", "chunk16"):
        quantizer = Quantizer(BY_NAME["uint8"], Mode(name=mode, granularity=GRANULARITIES[mode]))
        fake = quantizer.fake_quantize(x, Axes.weight(2))
        assert (fake.values[:, 7] == 0).all()
        assert fake.zero_point is not None
        assert BY_NAME["uint8"].contains(fake.zero_point).all()
        assert ((fake.values - x).abs() <= fake.spread_scale() * 1.001).all()


IDEMPOTENT = [
    q
    for q in FITTING
    if not q.format.affine and isinstance(q.mode.rule, PowerOfTwo) and q.format.name != "nf4"
]


@pytest.mark.parametrize("quantizer", IDEMPOTENT, ids=str)
def test_quantizing_twice_changes_nothing_where_scales_are_powers_of_two(
    quantizer: Quantizer, hard: Hard, same_bits: SameBits
) -> None:
    for flavour in ("normal", "outliers", "powers"):
        once = quantizer.fake_quantize(hard((7, 10), flavour), Axes.weight(2)).values
        twice = quantizer.fake_quantize(once, Axes.weight(2)).values
        assert same_bits(once, twice), flavour


@pytest.mark.parametrize("format", ["bf16", "fp16", "fp32"])
def test_formats_without_a_scale_have_scale_one_and_round_alone(
    format: str, hard: Hard, same_bits: SameBits, flavour: str
) -> None:
    quantizer = Quantizer(BY_NAME[format], SHIPPED["tensor"])
    x = hard((5, 9), flavour)
    fake = quantizer.fake_quantize(x)
    assert fake.scale.tolist() == [[1.0]]
    assert same_bits(fake.values, BY_NAME[format].round(x))


@dataclass(frozen=True)
class Layout:
    """A way to hold the same values in memory."""

    name: str
    make: Callable[[Tensor], Tensor]


LAYOUTS = (
    Layout("channels-last", lambda x: x.contiguous(memory_format=torch.channels_last)),
    Layout("permuted", lambda x: x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)),
    Layout("sliced", lambda x: torch.stack([x, x + 1], dim=-1)[..., 0]),
    Layout("offset", lambda x: torch.cat([torch.zeros(1, *x.shape[1:]), x])[1:]),
    Layout("inference", lambda x: x.clone()),
)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize(
    "quantizer", [q for q in FITTING if q.format.name in {"fp8_e4m3", "uint8"}], ids=str
)
def test_memory_order_changes_neither_values_nor_scales(
    quantizer: Quantizer, layout: Layout, hard: Hard, same_bits: SameBits
) -> None:
    x = hard((4, 6, 5, 3), "normal")
    plain = quantizer.fake_quantize(x)
    with torch.inference_mode(layout.name == "inference"):
        moved = layout.make(x)
        fake = quantizer.fake_quantize(moved)
        assert same_bits(fake.values, plain.values)
        assert same_bits(fake.scale, plain.scale)
        if layout.name in {"channels-last", "permuted", "offset"}:
            assert fake.values.stride() == moved.stride()
        stored = quantizer.quantize(moved)
        assert torch.equal(stored.codes, quantizer.quantize(x).codes)


def test_images_of_stride_zero_equal_their_copies(same_bits: SameBits) -> None:
    x = torch.randn(1, 6, 1, 3).expand(4, 6, 5, 3)
    for mode in SMALL_MODES:
        quantizer = Quantizer(BY_NAME["fp4_e2m1"], mode)
        assert same_bits(
            quantizer.fake_quantize(x).values, quantizer.fake_quantize(x.clone()).values
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_arithmetic_is_float32_whatever_the_dtype(dtype: torch.dtype, same_bits: SameBits) -> None:
    x = torch.randn(5, 20, generator=torch.Generator().manual_seed(4)).to(dtype)
    for mode in SMALL_MODES:
        quantizer = Quantizer(BY_NAME["fp8_e5m2"], mode)
        fake = quantizer.fake_quantize(x)
        wide = quantizer.fake_quantize(x.to(torch.float32))
        assert fake.values.dtype == dtype
        assert torch.equal(fake.scale, wide.scale)
        assert same_bits(fake.values, wide.values.to(dtype))


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (2, 0, 3, 3)], ids=str)
def test_an_empty_tensor_gives_an_empty_one(shape: tuple[int, ...]) -> None:
    for quantizer in FITTING:
        fake = quantizer.fake_quantize(torch.empty(shape))
        assert fake.values.shape == shape
        assert fake.scale.dim() == len(shape)
        assert fake.spread_scale().shape == shape
        assert quantizer.quantize(torch.empty(shape)).dequantize().shape == shape


def test_a_buffer_of_the_right_strides_is_written_in_place(same_bits: SameBits) -> None:
    quantizer = Quantizer(BY_NAME["fp8_e4m3"], SHIPPED["chunk128"])
    x = torch.randn(4, 300)
    expected = quantizer.fake_quantize(x).values
    out = torch.full_like(x, 9)
    fake = quantizer.fake_quantize(x, out=out)
    assert fake.values is out
    assert same_bits(out, expected)


def test_a_buffer_of_other_strides_is_written_too(same_bits: SameBits) -> None:
    quantizer = Quantizer(BY_NAME["fp8_e4m3"], SHIPPED["chunk128"])
    x = torch.randn(4, 300)
    expected = quantizer.fake_quantize(x).values
    wide = torch.zeros(300, 8)
    out = wide[:, ::2].t()
    assert quantizer.fake_quantize(x, out=out).values is out
    assert same_bits(out, expected)
    assert (wide[:, 1::2] == 0).all()
    image = torch.randn(2, 3, 4, 5)
    channels_last = torch.empty_like(image, memory_format=torch.channels_last)
    quantizer.fake_quantize(image, out=channels_last)
    assert same_bits(channels_last, quantizer.fake_quantize(image).values)


def test_the_input_may_be_its_own_buffer(same_bits: SameBits) -> None:
    for mode in SMALL_MODES:
        quantizer = Quantizer(BY_NAME["fp8_e4m3"], mode)
        x = torch.randn(5, 11)
        expected = quantizer.fake_quantize(x).values
        assert quantizer.fake_quantize(x, out=x).values is x
        assert same_bits(x, expected)


def test_a_buffer_of_another_shape_is_refused() -> None:
    quantizer = Quantizer(BY_NAME["fp8_e4m3"], SHIPPED["tensor"])
    with pytest.raises(FormatError, match=r"got \(3, 2\) for \(2, 3\)\. Use torch\.empty_like"):
        quantizer.fake_quantize(torch.ones(2, 3), out=torch.empty(3, 2))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_tensors_that_are_not_float_are_refused(dtype: torch.dtype) -> None:
    quantizer = Quantizer(BY_NAME["int8"], SHIPPED["tensor"])
    words = rf"float16, bfloat16, float32 or float64; got {dtype}. Convert the tensor first"
    with pytest.raises(ModeError, match=words):
        quantizer.fake_quantize(torch.ones(2, 2).to(dtype))
    with pytest.raises(ModeError, match="Convert"):
        quantizer.quantize(torch.ones(2, 2).to(dtype))


def test_nan_has_no_code_in_a_format_without_one() -> None:
    x = torch.tensor([1.0, torch.nan])
    with pytest.raises(FormatError, match="without a code"):
        Quantizer(BY_NAME["int8"], SHIPPED["tensor"]).quantize(x)
    stored = Quantizer(BY_NAME["fp8_e4m3"], SHIPPED["tensor"]).quantize(x)
    assert stored.codes.tolist() == [0x7E, 0x7F]


def test_stochastic_rounding_depends_on_the_seed_alone(same_bits: SameBits) -> None:
    format = BY_NAME["fp4_e2m1"].variant("stochastic")
    x = torch.randn(6, 40)
    first = Quantizer(format, SHIPPED["mx32"], seed=1)
    torch.manual_seed(0)
    values = first.fake_quantize(x).values
    state = torch.get_rng_state()
    assert same_bits(first.fake_quantize(x).values, values)
    assert same_bits(first.fake_quantize(x.t().contiguous().t()).values, values)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(
        Quantizer(format, SHIPPED["mx32"], seed=2).fake_quantize(x).values, values
    )


def test_stochastic_rounding_is_unbiased_over_seeds() -> None:
    x = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    format = BY_NAME["fp4_e2m1"].variant("stochastic")
    # Rounded up, as saturation would bias the largest elements.
    draws = [
        Quantizer(format, SHIPPED["mx32_rceil"], seed=seed).fake_quantize(x).values
        for seed in range(400)
    ]
    mean = torch.stack(draws).to(torch.float64).mean(dim=0)
    gap = 2 * x.abs().amax(dim=1, keepdim=True)
    assert ((mean - x).abs() < 4.5 * 0.5 * gap / math.sqrt(400)).all()
    assert abs(float((mean - x).mean())) < 0.01


def test_nothing_is_differentiable() -> None:
    x = torch.randn(4, 4, requires_grad=True)
    fake = Quantizer(BY_NAME["int8"], SHIPPED["channel"]).fake_quantize(x)
    assert not fake.values.requires_grad
    assert not fake.scale.requires_grad


def test_a_third_party_format_runs_in_every_mode(
    reference: Reference, same_bits: SameBits, hard: Hard
) -> None:
    class Doubled(CodebookFormat):
        def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
            return super().round(x)

    formats: list[Format] = [
        CodebookFormat(name="ternary", bits=2, values=(-1.0, 0.0, 1.0)),
        CodebookFormat(name="quarter", bits=2, values=(-0.25, 0.0, 0.125, 0.25)),
        Doubled(name="own", bits=3, values=(-4.0, -1.0, 0.0, 1.0, 4.0)),
        IntFormat(name="int16", bits=16, low=-32767, high=32767),
        FloatFormat(name="e3m4", exponent_bits=3, mantissa_bits=4),
    ]
    for format, mode, flavour in itertools.product(formats, SMALL_MODES, ["normal", "special"]):
        x = hard((5, 9), flavour)
        check_against(reference, same_bits, Quantizer(format, mode), x, Axes.weight(2))


def test_a_quantizer_is_called_by_its_format_and_mode() -> None:
    assert str(Quantizer(BY_NAME["fp4_e2m1"], SHIPPED["nv16"])) == "fp4_e2m1-nv16"
    group = Quantizer(BY_NAME["int8"], SHIPPED["chunk128"]).group_shape((4, 300), Axes.weight(2))
    assert group == (1, 128)


def test_a_misfit_is_refused_when_the_quantizer_is_made() -> None:
    with pytest.raises(ModeError, match="bf16-channel does not"):
        Quantizer(BY_NAME["bf16"], SHIPPED["channel"])


def test_results_do_not_share_memory_with_the_input() -> None:
    for format in ("fp32", "int8"):
        x = torch.randn(3, 4)
        fake = Quantizer(BY_NAME[format], SHIPPED["tensor"]).fake_quantize(x)
        assert fake.values.data_ptr() != x.data_ptr()
        assert np.shares_memory(fake.values.numpy(), x.numpy()) is False


@pytest.mark.parametrize(("format", "mode"), [("uint8", "tensor"), ("fp8_e4m3", "mx32_rceil")])
def test_a_finite_float16_never_becomes_infinite(format: str, mode: str) -> None:
    x = torch.tensor([65504.0, -100.0], dtype=torch.float16)
    quantizer = Quantizer(BY_NAME[format], SHIPPED[mode])
    result = quantizer.fake_quantize(x)
    assert result.values.isfinite().all()
    assert torch.equal(quantizer.quantize(x).dequantize(), result.values)


def test_a_zero_point_belongs_to_an_integer_format() -> None:
    odd = CodebookFormat(name="odd", bits=1, values=(0.0, 1.0), affine=True)
    with pytest.raises(ModeError, match="only an IntFormat"):
        Quantizer(odd, SHIPPED["tensor"])
