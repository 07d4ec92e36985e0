"""Layers that run their float twin's forward: against formulas written out, on quantized vectors."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from timm.layers import norm
from timm.layers.grn import GlobalResponseNorm
from timm.layers.norm_act import RmsNormAct2d
from timm.models import metaformer, mlp_mixer
from torch import Tensor, nn

from qbench_layers import (
    QuantAffine,
    QuantGlobalResponseNorm,
    QuantPReLU,
    QuantRMSNorm2d,
    QuantRMSNormAct2d,
    QuantScale,
    QuantSimpleNorm2d,
)
from qbench_suite import Axes, Quantizer, Role

QuantizerOf = Callable[[str], Quantizer]
VECTOR = Axes(None, 0, None, ())
IMAGE, LAST, TOKENS = Axes(1, 1, 3, (0, 2, 3)), Axes(3, 3, 2, (0, 1, 2)), Axes(2, 2, 1, (0, 1))
NAMES = ["fp8_e4m3-tensor", "int8-channel", "int8-token", "int8-chunk4"]


def filled(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        parameter.uniform_(0.3, 1.7)
    return module.eval()


@pytest.mark.parametrize("name", NAMES)
def test_rms_and_simple_norm_of_images(name: str, quantizer: QuantizerOf) -> None:
    q = quantizer(name)
    roles = {Role.WEIGHT: q, Role.INPUT: q}
    x = torch.randn(2, 6, 4, 5)
    on_grid = q.fake_quantize(x, IMAGE).values.double()
    module = filled(norm.RmsNorm2d(6))
    gamma = q.fake_quantize(module.weight, VECTOR).values.double().view(1, -1, 1, 1)
    rms = (on_grid.square().mean(1, keepdim=True) + module.eps).sqrt()
    found = QuantRMSNorm2d.from_float(module, roles)(x)
    torch.testing.assert_close(found.double(), on_grid / rms * gamma, atol=1e-5, rtol=1e-5)
    module = filled(norm.SimpleNorm2d(6))
    gamma = q.fake_quantize(module.weight, VECTOR).values.double().view(1, -1, 1, 1)
    deviation = (on_grid.var(1, keepdim=True) + module.eps).sqrt()
    found = QuantSimpleNorm2d.from_float(module, roles)(x)
    torch.testing.assert_close(found.double(), on_grid / deviation * gamma, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_global_response(name: str, last: bool, quantizer: QuantizerOf) -> None:
    module = filled(GlobalResponseNorm(6, channels_last=last))
    q = quantizer(name)
    x = torch.randn(2, 4, 5, 6) if last else torch.randn(2, 6, 4, 5)
    on_grid = q.fake_quantize(x, LAST if last else IMAGE).values.double()
    gamma = q.fake_quantize(module.weight, VECTOR).values.double()
    channels_last = on_grid if last else on_grid.permute(0, 2, 3, 1)
    length = channels_last.square().sum((1, 2), keepdim=True).sqrt()
    relative = length / (length.mean(-1, keepdim=True) + module.eps)
    expected = channels_last + module.bias + gamma * channels_last * relative
    expected = expected if last else expected.permute(0, 3, 1, 2)
    found = QuantGlobalResponseNorm.from_float(module, {Role.WEIGHT: q, Role.INPUT: q})(x)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_affine_scale_and_slopes(name: str, quantizer: QuantizerOf) -> None:
    q = quantizer(name)
    roles = {Role.WEIGHT: q, Role.INPUT: q}
    x = torch.randn(2, 5, 6)

    def vector(parameter: Tensor) -> Tensor:
        return q.fake_quantize(parameter.reshape(-1), VECTOR).values

    affine = filled(mlp_mixer.Affine(6))
    expected = affine.beta + vector(affine.alpha) * q.fake_quantize(x, TOKENS).values
    torch.testing.assert_close(QuantAffine.from_float(affine, roles)(x), expected)
    scale = filled(metaformer.Scale(6, use_nchw=False))
    expected = vector(scale.scale) * q.fake_quantize(x, TOKENS).values
    torch.testing.assert_close(QuantScale.from_float(scale, roles)(x), expected)
    image, slopes = torch.randn(2, 6, 4, 5), filled(nn.PReLU(6))
    on_grid = q.fake_quantize(image, IMAGE).values
    expected = on_grid.clamp(min=0) + vector(slopes.weight).view(6, 1, 1) * on_grid.clamp(max=0)
    torch.testing.assert_close(QuantPReLU.from_float(slopes, roles)(image), expected)


def test_a_vector_laid_out_for_broadcasting_is_quantized_as_a_vector(
    quantizer: QuantizerOf,
) -> None:
    module = filled(mlp_mixer.Affine(6))
    layer = QuantAffine.from_float(module, {Role.WEIGHT: quantizer("int8-chunk4")})
    (record,) = layer.quantized_tensors()
    assert tuple(record.result.scale.shape) == (2,)
    assert layer.alpha.shape == (1, 1, 6)


@pytest.mark.parametrize("apply_act", [True, False])
def test_an_activated_norm_gives_an_act(apply_act: bool, quantizer: QuantizerOf) -> None:
    module = filled(RmsNormAct2d(6, apply_act=apply_act))
    layer = QuantRMSNormAct2d.from_float(module, dict.fromkeys(Role, quantizer("int8-tensor")))
    layer.record = True
    layer(torch.randn(2, 6, 4, 5))
    roles = [record.role for record in layer.quantized_tensors()]
    assert roles == [Role.WEIGHT, Role.INPUT, Role.ACT if apply_act else Role.OUTPUT]


def test_a_copy_has_tensors_of_its_own() -> None:
    layer = QuantAffine.from_float(filled(mlp_mixer.Affine(6)), {})
    other = copy.deepcopy(layer)
    other.alpha.zero_()
    x = torch.randn(2, 5, 6)
    assert not torch.equal(layer(x), other(x))
    assert torch.equal(other(x), other.beta.expand(2, 5, 6))
