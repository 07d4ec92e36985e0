"""QuantizedTensor and FakeQuantized: scales spread, codes dequantized, bits counted by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qbench_formats import FORMATS
from qbench_modes import MODES
from qbench_suite import Axes, Mode, PerBlock, PerChunk, Quantizer, TwoLevel
from qbench_suite.scaling.quantized import spread

BY_NAME = {f.name: f for f in FORMATS}
MODE = {m.name: m for m in MODES}
FITTING = [
    Quantizer(format, mode)
    for format, mode in itertools.product(FORMATS, MODES)
    if not mode.misfit(format)
]


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 4, 5)], ids=str)
def test_each_element_gets_the_scale_of_its_group(shape: tuple[int, ...]) -> None:
    for group in itertools.product(*([1, 2, n] for n in shape)):
        counts = [-(-n // g) for n, g in zip(shape, group, strict=True)]
        scale = torch.arange(torch.Size(counts).numel()).reshape(counts).to(torch.float32)
        wide = spread(scale, shape, group)
        for index in itertools.product(*map(range, shape)):
            assert wide[index] == scale[tuple(i // g for i, g in zip(index, group, strict=True))]


@pytest.mark.parametrize("quantizer", FITTING, ids=str)
def test_dequantized_codes_equal_the_fake_quantized_values(
    quantizer: Quantizer,
    hard: Callable[..., Tensor],
    same_bits: Callable[[Tensor, Tensor], bool],
) -> None:
    flavours = ["normal", "outliers", "zeros", "subnormal", "huge", "powers"]
    for flavour, shape in itertools.product(flavours, [(3, 300), (2, 5, 3, 3), (40,), ()]):
        x = hard(shape, flavour)
        fake = quantizer.fake_quantize(x)
        stored = quantizer.quantize(x)
        assert same_bits(stored.dequantize(), fake.values), (flavour, shape)
        assert torch.equal(stored.scale, fake.scale)
        assert (stored.bits_per_value, stored.dtype) == (fake.bits_per_value, x.dtype)
        codes = torch.uint8 if quantizer.format.bits <= 8 else torch.int32
        assert (stored.codes.shape, stored.codes.dtype) == (x.shape, codes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dequantized_codes_have_the_dtype_of_the_input(
    dtype: torch.dtype, hard: Callable[..., Tensor]
) -> None:
    x = hard((4, 40), "normal").to(dtype)
    quantizer = Quantizer(BY_NAME["fp8_e4m3"], MODE["mx32"])
    restored = quantizer.quantize(x).dequantize()
    assert restored.dtype == dtype
    assert torch.equal(restored, quantizer.fake_quantize(x).values)


@pytest.mark.parametrize(
    ("format", "mode", "shape", "expected"),
    [
        ("fp8_e4m3", "chunk128", (4, 256), 8 + 32 / 128),
        ("fp8_e4m3", "chunk128", (4, 300), 8 + 32 * 12 / 1200),
        ("fp8_e4m3", "mx32", (4, 64), 8 + 8 / 32),
        ("fp4_e2m1", "mx32", (4, 64), 4.25),
        ("fp4_e2m1", "nv16", (4, 64), 4 + 8 / 16 + 32 / 256),
        ("uint8", "tensor", (4, 64), 8 + (32 + 8) / 256),
        ("uint8", "channel", (4, 64), 8 + 64 * (32 + 8) / 256),
        ("int4", "tensor", (4, 64), 4 + 32 / 256),
        ("bf16", "tensor", (4, 64), 16.0),
        ("fp32", "tensor", (4, 64), 32.0),
        ("fp8_e4m3", "tensor", (0, 64), 8.0),
    ],
)
def test_bits_per_value_count_codes_scales_and_zero_points(
    format: str, mode: str, shape: tuple[int, ...], expected: float
) -> None:
    quantizer = Quantizer(BY_NAME[format], MODE[mode])
    x = torch.ones(shape)
    assert quantizer.fake_quantize(x).bits_per_value == pytest.approx(expected, rel=1e-15)
    stored = quantizer.quantize(x)
    assert stored.bits_per_value == pytest.approx(expected, rel=1e-15)
    assert stored.nbytes == -(-round(expected * x.numel()) // 8)


def test_spread_scales_reproduce_the_values() -> None:
    x = torch.randn(5, 20, generator=torch.Generator().manual_seed(0))
    mode = Mode(name="block2x3", granularity=PerBlock(2, 3))
    fake = Quantizer(BY_NAME["uint8"], mode).fake_quantize(x, Axes.weight(2))
    stored = Quantizer(BY_NAME["uint8"], mode).quantize(x, Axes.weight(2))
    zero_point = fake.spread_zero_point()
    assert zero_point is not None
    q = stored.codes.to(torch.float32) - zero_point
    assert torch.equal(q * fake.spread_scale(), fake.values)


def test_a_symmetric_format_has_no_zero_point() -> None:
    mode = Mode(name="nv4", granularity=PerChunk(4), rule=TwoLevel())
    fake = Quantizer(BY_NAME["fp4_e2m1"], mode).fake_quantize(torch.ones(3, 8))
    assert fake.zero_point is None
    assert fake.spread_zero_point() is None
    assert fake.spread_scale().shape == (3, 8)
