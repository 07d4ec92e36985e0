"""Quantized norms against norms of tensors quantized by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.layers import LayerNorm2d, RmsNorm
from torch import nn
from torch.nn import functional as F

from qbench_layers import QuantGroupNorm, QuantLayerNorm, QuantLayerNorm2d, QuantRMSNorm
from qbench_suite import Axes, Quantizer, Role

QuantizerOf = Callable[[str], Quantizer]
NAMES = ["fp8_e4m3-tensor", "int8-channel", "int8-token", "int8-chunk8"]
VECTOR = Axes(channel=None, reduction=0, rows=None, tokens=())
ALL = (Role.WEIGHT, Role.INPUT, Role.OUTPUT)


def spread(module: nn.Module) -> None:
    """Parameters away from their ones and zeros."""
    for parameter in module.parameters():
        parameter.copy_(torch.randn_like(parameter))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(5, 20), (2, 5, 20), (2, 3, 5, 20)])
def test_layer_norm(name: str, shape: tuple[int, ...], quantizer: QuantizerOf) -> None:
    module = nn.LayerNorm(20)
    spread(module)
    q = quantizer(name)
    last = len(shape) - 1
    axes = Axes(channel=last, reduction=last, rows=last - 1, tokens=tuple(range(last)))
    x = torch.randn(shape)
    gamma = q.fake_quantize(module.weight, VECTOR).values
    y = F.layer_norm(q.fake_quantize(x, axes).values, (20,), gamma, module.bias, module.eps)
    found = QuantLayerNorm.from_float(module, dict.fromkeys(ALL, q))(x)
    assert torch.equal(found, q.fake_quantize(y, axes).values)


@pytest.mark.parametrize("name", NAMES)
def test_layer_norm_of_images(name: str, quantizer: QuantizerOf) -> None:
    module = LayerNorm2d(20)
    spread(module)
    q = quantizer(name)
    axes = Axes(channel=1, reduction=1, rows=3, tokens=(0, 2, 3))
    x = torch.randn(2, 20, 4, 5)
    gamma = q.fake_quantize(module.weight, VECTOR).values
    moved = q.fake_quantize(x, axes).values.permute(0, 2, 3, 1)
    y = F.layer_norm(moved, (20,), gamma, module.bias, module.eps).permute(0, 3, 1, 2)
    found = QuantLayerNorm2d.from_float(module, dict.fromkeys(ALL, q))(x)
    assert torch.equal(found, q.fake_quantize(y, axes).values)
    assert found.stride() == module(x).stride()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 20, 4, 5), (2, 20, 6)])
def test_group_norm(name: str, shape: tuple[int, ...], quantizer: QuantizerOf) -> None:
    module = nn.GroupNorm(4, 20)
    spread(module)
    q = quantizer(name)
    rank = len(shape)
    axes = Axes(channel=1, reduction=1, rows=rank - 1, tokens=(0, *range(2, rank)))
    x = torch.randn(shape)
    gamma = q.fake_quantize(module.weight, VECTOR).values
    y = F.group_norm(q.fake_quantize(x, axes).values, 4, gamma, module.bias, module.eps)
    found = QuantGroupNorm.from_float(module, dict.fromkeys(ALL, q))(x)
    assert torch.equal(found, q.fake_quantize(y, axes).values)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [nn.RMSNorm, RmsNorm])
def test_rms_norm(name: str, make: Callable[[int], nn.Module], quantizer: QuantizerOf) -> None:
    module = make(20)
    spread(module)
    q = quantizer(name)
    axes = Axes(channel=2, reduction=2, rows=1, tokens=(0, 1))
    x = torch.randn(2, 5, 20)
    gamma = q.fake_quantize(module.weight, VECTOR).values
    y = F.rms_norm(q.fake_quantize(x, axes).values, (20,), gamma, module.eps)
    found = QuantRMSNorm.from_float(module, dict.fromkeys(ALL, q))(x)
    assert torch.equal(found, q.fake_quantize(y, axes).values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_missing_epsilon_is_the_one_that_torch_chooses(dtype: torch.dtype) -> None:
    module = nn.RMSNorm(64).to(dtype)
    x = (torch.randn(4, 64) * 1e-4).to(dtype)
    assert torch.equal(QuantRMSNorm.from_float(module, {})(x), module(x))


def test_it_is_computed_in_float32_and_rounded_once() -> None:
    module = nn.LayerNorm(64).bfloat16()
    spread(module)
    x = torch.randn(8, 64).bfloat16()
    exact = copy_in_float32(module)(x.float()).bfloat16()
    assert torch.equal(QuantLayerNorm.from_float(module, {})(x), exact)


def copy_in_float32(module: nn.LayerNorm) -> nn.LayerNorm:
    """The same norm with float32 parameters."""
    wide = nn.LayerNorm(64)
    wide.load_state_dict(module.state_dict())
    return wide


@pytest.mark.parametrize(
    ("mode", "shape"), [("tensor", (1,)), ("channel", (1,)), ("chunk8", (3,)), ("mx32", (1,))]
)
def test_scale_shapes_of_gamma(mode: str, shape: tuple[int, ...], quantizer: QuantizerOf) -> None:
    roles = {Role.WEIGHT: quantizer(f"int8-{mode}")}
    (record,) = QuantLayerNorm.from_float(nn.LayerNorm(20), roles).quantized_tensors()
    assert record.result.scale.shape == shape


def test_gamma_over_several_axes_is_chunked_along_the_last(quantizer: QuantizerOf) -> None:
    module = nn.LayerNorm((6, 20))
    for mode, shape in (("channel", (1, 1)), ("chunk8", (6, 3))):
        roles = {Role.WEIGHT: quantizer(f"int8-{mode}")}
        (record,) = QuantLayerNorm.from_float(module, roles).quantized_tensors()
        assert record.result.scale.shape == shape
