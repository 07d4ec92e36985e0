"""Quantized convolutions against convolutions of tensors quantized by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm.layers as timm_layers
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qbench_layers import QuantConv2d, QuantConv2dSame, QuantScaledStdConv2d, QuantStdConv2d
from qbench_suite import Axes, LayerError, Quantized, Quantizer, Role

QuantizerOf = Callable[[str], Quantizer]
NAMES = ["fp8_e4m3-tensor", "int8-channel", "int8-token", "fp8_e4m3-chunk2", "fp4_e2m1-mx32"]

WEIGHT = Axes(channel=0, reduction=1, rows=0, tokens=(0,))
INPUT = Axes(channel=1, reduction=1, rows=3, tokens=(0, 2, 3))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "groups": 2, "bias": False},
        {"kernel_size": (3, 2), "dilation": 2, "padding": "same"},
        {"kernel_size": 3, "padding": "valid"},
    ],
    ids=["strided", "grouped", "dilated-same", "valid"],
)
def test_it_convolves_what_was_quantized_by_hand(
    name: str, options: dict[str, Any], quantizer: QuantizerOf
) -> None:
    module = nn.Conv2d(6, 8, **options)
    q = quantizer(name)
    x = torch.randn(2, 6, 9, 10)
    found = QuantConv2d.from_float(module, {Role.WEIGHT: q, Role.INPUT: q})(x)
    expected = F.conv2d(
        q.fake_quantize(x, INPUT).values,
        q.fake_quantize(module.weight.permute(0, 2, 3, 1).reshape(8, -1), WEIGHT)
        .values.view(8, *module.kernel_size, -1)
        .permute(0, 3, 1, 2)
        .contiguous(),
        module.bias,
        module.stride,
        module.padding,
        module.dilation,
        module.groups,
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_depthwise_weights_are_quantized_flat(name: str, quantizer: QuantizerOf) -> None:
    module = nn.Conv2d(6, 12, 3, groups=6)
    q = quantizer(name)
    x = torch.randn(2, 6, 9, 10)
    layer = QuantConv2d.from_float(module, {Role.WEIGHT: q, Role.INPUT: q})
    weight = q.fake_quantize(module.weight.reshape(12, 9), WEIGHT).values.reshape(12, 1, 3, 3)
    expected = F.conv2d(q.fake_quantize(x, INPUT).values, weight, module.bias, groups=6)
    assert torch.equal(layer(x), expected)
    (record,) = layer.quantized_tensors()
    assert record.source.shape == record.result.values.shape == (12, 9)


@pytest.mark.parametrize("mode", ["reflect", "circular", "replicate"])
@pytest.mark.parametrize("padding", [(2, 1), "same", "valid"])
def test_padding_modes_pad_the_quantized_input(
    mode: str, padding: Any, quantizer: QuantizerOf
) -> None:
    module = nn.Conv2d(4, 4, (3, 4), padding=padding, padding_mode=mode, dilation=(1, 2))
    q = quantizer("int8-channel")
    x = torch.randn(2, 4, 9, 10)
    found = QuantConv2d.from_float(module, {Role.INPUT: q})(x)
    assert torch.equal(found, module(q.fake_quantize(x, INPUT).values))


@pytest.mark.parametrize(
    ("groups", "name", "weight_scale", "input_scale"),
    [
        (1, "int8-tensor", (1, 1), (1, 1, 1, 1)),
        (1, "int8-channel", (6, 1), (1, 3, 1, 1)),
        (1, "int8-token", (6, 1), (2, 1, 9, 9)),
        (1, "int8-chunk2", (6, 14), (2, 2, 9, 9)),
        (1, "int8-mx32", (6, 1), (2, 1, 9, 9)),
        (3, "int8-channel", (6, 1), (1, 3, 1, 1)),
        (3, "int8-chunk4", (6, 3), (2, 1, 9, 9)),
        (3, "int8-mx32", (6, 1), (2, 1, 9, 9)),
    ],
)
def test_scale_shapes_of_a_stem_of_3_channels(
    groups: int,
    name: str,
    weight_scale: tuple[int, ...],
    input_scale: tuple[int, ...],
    quantizer: QuantizerOf,
) -> None:
    q = quantizer(name)
    module = nn.Conv2d(3, 6, 3, groups=groups)
    layer = QuantConv2d.from_float(module, {Role.WEIGHT: q, Role.INPUT: q})
    layer.record = True
    layer(torch.randn(2, 3, 9, 9))
    weight, x = layer.quantized_tensors()
    assert (weight.name, tuple(weight.result.scale.shape)) == ("weight", weight_scale)
    assert (x.name, tuple(x.result.scale.shape)) == ("input", input_scale)


def test_an_image_without_a_batch_has_its_features_first(quantizer: QuantizerOf) -> None:
    layer = QuantConv2d.from_float(nn.Conv2d(3, 8, 3), {Role.INPUT: quantizer("int8-channel")})
    layer.record = True
    layer(torch.randn(3, 9, 9))
    (x,) = layer.quantized_tensors()
    assert x.result.scale.shape == (3, 1, 1)


@pytest.mark.parametrize(
    "module",
    [nn.Conv2d(8, 16, 3), nn.Conv2d(8, 16, 3, groups=4), nn.Conv2d(16, 16, 3, groups=16)],
    ids=["dense", "grouped", "depthwise"],
)
@pytest.mark.parametrize("format", ["int8", "int4", "fp4_e2m1"])
def test_a_scale_a_channel_never_loses_to_one_a_tensor(
    module: nn.Conv2d, format: str, quantizer: QuantizerOf, error: Callable[[Quantized], float]
) -> None:
    module.weight.mul_(torch.logspace(-3, 1, 16).view(-1, 1, 1, 1))
    errors = [
        error(next(QuantConv2d.from_float(module, {Role.WEIGHT: q}).quantized_tensors()))
        for q in (quantizer(f"{format}-channel"), quantizer(f"{format}-tensor"))
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("size", [(9, 10), (12, 7)])
@pytest.mark.parametrize("kernel", [2, 3, (5, 4)])
def test_same_padding_is_that_of_timm(
    size: tuple[int, int], kernel: Any, quantizer: QuantizerOf
) -> None:
    module = timm_layers.Conv2dSame(4, 4, kernel, stride=(2, 3), dilation=(2, 1))
    q = quantizer("int8-channel")
    x = torch.randn(2, 4, *size)
    found = QuantConv2dSame.from_float(module, {Role.INPUT: q})(x)
    assert torch.equal(found, module(q.fake_quantize(x, INPUT).values))
    assert found.shape[2:] == (-(-size[0] // 2), -(-size[1] // 3))


def standardised(module: Any, gain: Tensor | float) -> Tensor:
    """(W − μ) / √(σ² + ε) · gain of each output channel, in float64."""
    rows = module.weight.double().flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    rows = rows / (rows.square().mean(1, keepdim=True) + module.eps).sqrt()
    return (rows.view(module.weight.shape) * gain).float()


def laid_out(weight: Tensor) -> Tensor:
    """(out, kh · kw · in), all that an output sums over."""
    return weight.permute(0, 2, 3, 1).flatten(1)


@pytest.mark.parametrize("make", [timm_layers.StdConv2d, timm_layers.StdConv2dSame])
def test_weights_are_standardised_before_they_are_quantized(
    make: Any, quantizer: QuantizerOf
) -> None:
    module = make(8, 8, 3, stride=2)
    layer = QuantStdConv2d.from_float(module, {Role.WEIGHT: quantizer("int8-channel")})
    (record,) = layer.quantized_tensors()
    torch.testing.assert_close(record.source, laid_out(standardised(module, 1.0)))
    assert torch.equal(record.result.values, laid_out(layer.weight))


@pytest.mark.parametrize("make", [timm_layers.ScaledStdConv2d, timm_layers.ScaledStdConv2dSame])
def test_scaled_weights_have_their_gain(make: Any, quantizer: QuantizerOf) -> None:
    module = make(8, 8, 3, stride=2, gamma=1.7)
    module.gain.copy_(torch.rand_like(module.gain) + 0.5)
    layer = QuantScaledStdConv2d.from_float(module, {Role.WEIGHT: quantizer("int8-channel")})
    (record,) = layer.quantized_tensors()
    expected = laid_out(standardised(module, module.gain * 1.7 / 72**0.5))
    torch.testing.assert_close(record.source, expected)


def test_the_output_is_quantized_where_a_quantizer_for_it_is_given(quantizer: QuantizerOf) -> None:
    module = nn.Conv2d(3, 8, 3)
    q = quantizer("int8-channel")
    x = torch.randn(2, 3, 9, 9)
    found = QuantConv2d.from_float(module, {Role.OUTPUT: q})(x)
    assert torch.equal(found, q.fake_quantize(module(x), INPUT).values)
    assert Role.OUTPUT not in QuantConv2d.roles


def test_half_precision_in_is_half_precision_out(quantizer: QuantizerOf) -> None:
    module = nn.Conv2d(3, 8, 3).bfloat16()
    q = quantizer("fp8_e4m3-channel")
    layer = QuantConv2d.from_float(module, {Role.WEIGHT: q, Role.INPUT: q})
    assert layer(torch.randn(2, 3, 9, 9).bfloat16()).dtype == torch.bfloat16


def test_another_convolution_is_an_error() -> None:
    with pytest.raises(LayerError, match=r"got torch\.nn\.modules\.conv\.ConvTranspose2d"):
        QuantConv2d.from_float(nn.ConvTranspose2d(3, 8, 3), {})
