"""Quantized transposed convolutions: a scale for each output channel, whatever the groups."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qbench_layers import QuantConvTranspose1d, QuantConvTranspose2d
from qbench_suite import Axes, LayerError, Quantizer, Role

QuantizerOf = Callable[[str], Quantizer]


@pytest.mark.parametrize("name", ["fp8_e4m3-tensor", "int8-channel", "int8-token", "int8-chunk4"])
def test_it_convolves_what_was_quantized_by_hand(name: str, quantizer: QuantizerOf) -> None:
    module = nn.ConvTranspose2d(6, 4, (2, 3), stride=2, padding=1)
    q = quantizer(name)
    x = torch.randn(2, 6, 5, 7)
    rows = module.weight.permute(1, 2, 3, 0).reshape(4, -1)
    rows = q.fake_quantize(rows, Axes(0, 1, 0, (0,))).values
    weight = rows.view(4, 2, 3, 6).permute(3, 0, 1, 2)
    on_grid = q.fake_quantize(x, Axes(1, 1, 3, (0, 2, 3))).values
    expected = F.conv_transpose2d(on_grid, weight, module.bias, stride=2, padding=1)
    layer = QuantConvTranspose2d.from_float(module, {Role.WEIGHT: q, Role.INPUT: q})
    torch.testing.assert_close(layer(x), expected)


def test_every_output_channel_of_every_group_has_a_scale(quantizer: QuantizerOf) -> None:
    module = nn.ConvTranspose2d(6, 4, 2, groups=2, bias=False)
    sizes = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    # Inputs 0 to 2 serve outputs 0 and 1, inputs 3 to 5 serve outputs 2 and 3.
    module.weight[:3] *= sizes[:2].view(1, 2, 1, 1)
    module.weight[3:] *= sizes[2:].view(1, 2, 1, 1)
    layer = QuantConvTranspose2d.from_float(module, {Role.WEIGHT: quantizer("int8-channel")})
    (record,) = layer.quantized_tensors()
    assert record.result.values.shape == (4, 12)
    amax = torch.stack([module.weight[i : i + 3, j].abs().max() for i in (0, 3) for j in (0, 1)])
    torch.testing.assert_close(record.result.scale.flatten(), amax / 127)
    relative = (layer.weight - module.weight).abs() / module.weight.abs().amax((2, 3), True)
    assert relative.max() < 0.02


@pytest.mark.parametrize("size", [[13, 9], [14, 10], [2, 4, 14, 9]])
def test_the_output_size_can_be_asked_for(size: list[int]) -> None:
    module = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1)
    x = torch.randn(2, 6, 7, 5)
    layer = QuantConvTranspose2d.from_float(module, {})
    assert torch.equal(layer(x, output_size=size), module(x, output_size=size))


def test_a_sequence_without_a_batch(quantizer: QuantizerOf) -> None:
    module = nn.ConvTranspose1d(6, 4, 3)
    q = quantizer("int8-channel")
    layer = QuantConvTranspose1d.from_float(module, {Role.INPUT: q})
    x = torch.randn(6, 5)
    expected = module(q.fake_quantize(x, Axes(0, 0, 1, (1,))).values)
    assert torch.equal(layer(x), expected)


def test_another_convolution_is_an_error() -> None:
    with pytest.raises(LayerError, match=r"got torch\.nn\.modules\.conv\.Conv2d"):
        QuantConvTranspose2d.from_float(nn.Conv2d(3, 8, 3), {})
