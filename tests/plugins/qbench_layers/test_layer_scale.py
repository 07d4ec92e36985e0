"""Quantized layer scales against products of tensors quantized by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.layers import LayerScale, LayerScale2d

from qbench_layers import QuantLayerScale, QuantLayerScale2d
from qbench_suite import Axes, Quantizer, Role

QuantizerOf = Callable[[str], Quantizer]
NAMES = ["fp8_e4m3-tensor", "int8-channel", "int8-token", "int8-chunk4"]
VECTOR = Axes(None, 0, None, ())


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_scaled_along_the_last_axis(name: str, quantizer: QuantizerOf) -> None:
    module = LayerScale(6, inplace=True)
    module.gamma.normal_()
    q = quantizer(name)
    x = torch.randn(2, 5, 6)
    before = x.clone()
    expected = (
        q.fake_quantize(x, Axes(2, 2, 1, (0, 1))).values
        * q.fake_quantize(module.gamma, VECTOR).values
    )
    found = QuantLayerScale.from_float(module, {Role.WEIGHT: q, Role.INPUT: q})(x)
    assert torch.equal(found, expected)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", NAMES)
def test_images_are_scaled_along_axis_1(name: str, quantizer: QuantizerOf) -> None:
    module = LayerScale2d(6)
    module.gamma.normal_()
    q = quantizer(name)
    x = torch.randn(2, 6, 4, 5)
    gamma = q.fake_quantize(module.gamma, VECTOR).values.view(6, 1, 1)
    expected = q.fake_quantize(x, Axes(1, 1, 3, (0, 2, 3))).values * gamma
    found = QuantLayerScale2d.from_float(module, {Role.WEIGHT: q, Role.INPUT: q})(x)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("inplace", [False, True])
def test_the_dtype_is_that_of_the_float_module(inplace: bool) -> None:
    module = LayerScale2d(6, inplace=inplace)
    x = torch.randn(2, 6, 4, 5).bfloat16()
    found = QuantLayerScale2d.from_float(module, {})(x)
    assert found.dtype == module(x.clone()).dtype
