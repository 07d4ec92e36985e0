"""Quantized activation functions: input and result on the grid, the caller's tensor untouched."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.layers import activations
from torch import nn

from qbench_layers import QuantGELU, QuantHardswish, QuantReLU, QuantSiLU, QuantSoftmax
from qbench_suite import Axes, LayerError, Quantizer, QuantModule, Role

QuantizerOf = Callable[[str], Quantizer]
NAMES = ["fp8_e4m3-tensor", "int8-channel", "uint8-tensor", "int8-chunk4"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("layer", "module"),
    [
        (QuantReLU, nn.ReLU(inplace=True)),
        (QuantGELU, nn.GELU("tanh")),
        (QuantSiLU, activations.Swish(inplace=True)),
        (QuantHardswish, nn.Hardswish(inplace=True)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((2, 6, 4, 5), Axes(1, 1, 3, (0, 2, 3))),
        ((2, 6, 5), Axes(2, 2, 1, (0, 1))),
        ((2, 6), Axes(1, 1, 0, (0,))),
    ],
    ids=["image", "tokens", "rows"],
)
def test_input_and_result_are_quantized(
    layer: type[QuantModule],
    module: nn.Module,
    shape: tuple[int, ...],
    axes: Axes,
    name: str,
    quantizer: QuantizerOf,
) -> None:
    q = quantizer(name)
    x = torch.randn(shape)
    before = x.clone()
    found = layer.from_float(module, dict.fromkeys(set(Role) - {Role.STATISTICS}, q))(x)
    expected = q.fake_quantize(module(q.fake_quantize(x, axes).values), axes).values
    assert torch.equal(found, expected)
    assert torch.equal(x, before)


def test_the_feature_axis_can_be_named(quantizer: QuantizerOf) -> None:
    roles = dict.fromkeys(Role, quantizer("int8-channel"))
    layer = QuantGELU.from_float(nn.GELU(), roles, feature_axis=-1)
    layer.record = True
    layer(torch.randn(2, 4, 5, 6))
    assert {tuple(r.result.scale.shape) for r in layer.quantized_tensors()} == {(1, 1, 1, 6)}


@pytest.mark.parametrize(("dim", "scale"), [(-1, (1, 1, 1, 6)), (1, (1, 4, 1, 1))])
def test_a_softmax_is_quantized_along_its_own_axis(
    dim: int, scale: tuple[int, ...], quantizer: QuantizerOf
) -> None:
    layer = QuantSoftmax.from_float(
        nn.Softmax(dim=dim), dict.fromkeys(Role, quantizer("int8-channel"))
    )
    layer.record = True
    layer(torch.randn(2, 4, 5, 6))
    assert {tuple(r.result.scale.shape) for r in layer.quantized_tensors()} == {scale}
    assert [r.role for r in layer.quantized_tensors()] == [Role.INPUT, Role.ACT]


def test_a_softmax_that_chooses_its_axis_by_rank_is_an_error() -> None:
    with pytest.raises(LayerError, match=r"knows the axis .* got .*dim=None.* Softmax\(dim=-1\)"):
        QuantSoftmax.from_float(nn.Softmax(), {})


def test_nan_stays_nan(quantizer: QuantizerOf) -> None:
    layer = QuantReLU.from_float(nn.ReLU(), dict.fromkeys(Role, quantizer("int8-tensor")))
    y = layer(torch.tensor([float("nan"), -1.0, 2.0]))
    assert y.isnan().tolist() == [True, False, False]
    assert y[1:].tolist() == [0.0, 2.0]
