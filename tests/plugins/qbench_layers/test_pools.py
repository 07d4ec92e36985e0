"""Quantized pools against pools of tensors quantized by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.layers import SelectAdaptivePool2d
from torch import nn

from qbench_layers import (
    QuantAdaptiveAvgPool2d,
    QuantAvgPool2d,
    QuantMaxPool2d,
    QuantSelectAdaptivePool2d,
)
from qbench_suite import Axes, Quantizer, QuantModule, Role

QuantizerOf = Callable[[str], Quantizer]


@pytest.mark.parametrize("name", ["fp8_e4m3-tensor", "int8-channel", "int8-token", "int8-chunk4"])
@pytest.mark.parametrize(
    ("layer", "module"),
    [
        (QuantMaxPool2d, nn.MaxPool2d(3, 2, 1)),
        (QuantAvgPool2d, nn.AvgPool2d(3, 2, 1)),
        (QuantAdaptiveAvgPool2d, nn.AdaptiveAvgPool2d(3)),
        (QuantSelectAdaptivePool2d, SelectAdaptivePool2d(pool_type="catavgmax", flatten=True)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_they_pool_what_was_quantized_by_hand(
    layer: type[QuantModule], module: nn.Module, name: str, quantizer: QuantizerOf
) -> None:
    q = quantizer(name)
    x = torch.randn(2, 6, 9, 9)
    expected = module(q.fake_quantize(x, Axes(1, 1, 3, (0, 2, 3))).values)
    assert torch.equal(
        layer.from_float(module, dict.fromkeys(set(Role) - {Role.STATISTICS}, q))(x), expected
    )


@pytest.mark.parametrize(("input_fmt", "scale"), [("NCHW", (1, 6, 1, 1)), ("NHWC", (1, 1, 1, 8))])
@pytest.mark.parametrize("kind", ["fast", "fastcatavgmax"])
def test_the_features_of_a_global_pool_lie_where_its_format_says(
    input_fmt: str, scale: tuple[int, ...], kind: str, quantizer: QuantizerOf
) -> None:
    module = SelectAdaptivePool2d(pool_type=kind, input_fmt=input_fmt)
    layer = QuantSelectAdaptivePool2d.from_float(module, {Role.INPUT: quantizer("int8-channel")})
    layer.record = True
    layer(torch.randn(2, 6, 7, 8))
    (record,) = layer.quantized_tensors()
    assert record.result.scale.shape == scale


def test_a_pool_that_passes_its_input_through_quantizes_nothing(quantizer: QuantizerOf) -> None:
    module = SelectAdaptivePool2d(pool_type="")
    layer = QuantSelectAdaptivePool2d.from_float(module, {Role.INPUT: quantizer("int4-tensor")})
    x = torch.randn(2, 6, 7, 8)
    assert torch.equal(layer(x), x)
