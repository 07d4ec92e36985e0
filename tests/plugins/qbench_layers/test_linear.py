"""The quantized linear layer against products of tensors quantized by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qbench_layers import QuantLinear
from qbench_suite import Axes, LayerError, Quantized, Quantizer, Role

QuantizerOf = Callable[[str], Quantizer]
SHAPES = [(6, 20), (2, 6, 20), (2, 3, 6, 20)]


@pytest.mark.parametrize("shape", SHAPES, ids=["rank2", "rank3", "rank4"])
@pytest.mark.parametrize("name", ["fp8_e4m3-tensor", "int8-channel", "uint8-token", "int8-chunk8"])
def test_it_multiplies_what_was_quantized_by_hand(
    shape: tuple[int, ...], name: str, quantizer: QuantizerOf
) -> None:
    module = nn.Linear(20, 10)
    q = quantizer(name)
    x = torch.randn(shape)
    last = len(shape) - 1
    axes = Axes(channel=last, reduction=last, rows=last - 1, tokens=tuple(range(last)))
    weight = q.fake_quantize(module.weight, Axes(0, 1, 0, (0,))).values
    expected = F.linear(q.fake_quantize(x, axes).values, weight, module.bias)
    found = QuantLinear.from_float(module, {Role.WEIGHT: q, Role.INPUT: q})(x)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", SHAPES, ids=["rank2", "rank3", "rank4"])
@pytest.mark.parametrize(
    ("name", "weight_scale", "kept", "groups"),
    [
        ("int8-tensor", (1, 1), False, 1),
        ("int8-channel", (10, 1), False, 20),
        ("int8-token", (10, 1), True, 1),
        ("int8-chunk8", (10, 3), True, 3),
        ("int8-mx32", (10, 1), True, 1),
    ],
)
def test_scale_shapes(
    shape: tuple[int, ...],
    name: str,
    weight_scale: tuple[int, int],
    kept: bool,
    groups: int,
    quantizer: QuantizerOf,
) -> None:
    q = quantizer(name)
    layer = QuantLinear.from_float(nn.Linear(20, 10), {Role.WEIGHT: q, Role.INPUT: q})
    layer.record = True
    layer(torch.randn(shape))
    weight, x = layer.quantized_tensors()
    assert weight.result.scale.shape == weight_scale
    tokens = shape[:-1] if kept else (1,) * (len(shape) - 1)
    assert x.result.scale.shape == (*tokens, groups)


@pytest.mark.parametrize("format", ["int8", "int4", "fp4_e2m1"])
def test_a_scale_a_channel_never_loses_to_one_a_tensor(
    format: str, quantizer: QuantizerOf, error: Callable[[Quantized], float]
) -> None:
    module = nn.Linear(20, 10)
    module.weight.mul_(torch.logspace(-3, 1, 10).view(-1, 1))
    errors = [
        error(next(QuantLinear.from_float(module, {Role.WEIGHT: q}).quantized_tensors()))
        for q in (quantizer(f"{format}-channel"), quantizer(f"{format}-tensor"))
    ]
    assert errors[0] < errors[1]


def test_weights_are_always_recorded_and_inputs_on_request(
    quantizer: QuantizerOf,
) -> None:
    q = quantizer("int8-tensor")
    layer = QuantLinear.from_float(nn.Linear(20, 10), {Role.WEIGHT: q, Role.INPUT: q})
    layer(torch.randn(2, 20))
    assert [record.name for record in layer.quantized_tensors()] == ["weight"]
    layer.record = True
    layer(torch.randn(2, 20))
    assert [record.name for record in layer.quantized_tensors()] == ["weight", "input"]
    layer.clear_record()
    assert [record.name for record in layer.quantized_tensors()] == ["weight"]


def test_a_bilinear_is_not_a_linear() -> None:
    with pytest.raises(LayerError, match=r"QuantLinear replaces torch\.nn\.Linear"):
        QuantLinear.from_float(nn.Bilinear(3, 3, 3), {})
