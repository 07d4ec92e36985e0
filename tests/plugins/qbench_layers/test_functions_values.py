"""Quantized calls against arithmetic by hand, in NumPy: int8, ties to even, a scale for each group."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from qbench_layers.functions.activations import ReLUFunction, SigmoidFunction, SoftmaxFunction
from qbench_layers.functions.arithmetic import AddFunction, MulFunction
from qbench_layers.functions.linear import ConvFunction, ConvTransposeFunction, LinearFunction
from qbench_layers.functions.matmul import MatmulFunction
from qbench_layers.functions.pools import AdaptiveAvgPoolFunction, MeanFunction
from qbench_suite import Quantizer, Role

QuantizerOf = Callable[[str], Quantizer]
Array = NDArray[np.float64]


def int8(x: Tensor, *shared: int) -> Array:
    """``round(x / s) · s`` with s = amax / 127 over the axes that share a scale."""
    values = x.detach().numpy().astype(np.float32)
    scale = np.abs(values).max(axis=shared, keepdims=True) / np.float32(127)
    return (np.rint(values / scale) * scale).astype(np.float64)


def close(found: Tensor, expected: Array) -> None:
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_residual_sum_scales_its_operands_apart(quantizer: QuantizerOf) -> None:
    a, b = torch.randn(2, 3, 4, 5), 100 * torch.randn(2, 3, 4, 5)
    layer = AddFunction({Role.INPUT: quantizer("int8-tensor")})
    every = (0, 1, 2, 3)
    close(layer.call(torch.add, (a, b), {"alpha": 0.5}), int8(a, *every) + 0.5 * int8(b, *every))


@pytest.mark.parametrize(
    ("shape", "axis", "shared"),
    [
        ((2, 3, 4, 5), None, (0, 2, 3)),
        ((2, 3, 4, 5), -1, (0, 1, 2)),
        ((2, 4, 5), None, (0, 1)),
        ((2, 3, 4, 5), 1, (0, 2, 3)),
    ],
)
def test_channels_of_a_sum_lie_on_the_feature_axis(
    shape: tuple[int, ...], axis: int | None, shared: tuple[int, ...], quantizer: QuantizerOf
) -> None:
    a, b = torch.randn(shape), torch.randn(shape)
    layer = AddFunction({Role.INPUT: quantizer("int8-channel")}, feature_axis=axis)
    close(layer.call(torch.Tensor.add, (a, b), {}), int8(a, *shared) + int8(b, *shared))


def test_an_operand_of_lower_rank_has_its_channels_on_the_same_axis(
    quantizer: QuantizerOf,
) -> None:
    a, gate = torch.randn(2, 3, 4, 5), torch.rand(3, 4, 5)
    layer = MulFunction({Role.INPUT: quantizer("int8-channel")})
    close(layer.call(torch.mul, (a, gate), {}), int8(a, 0, 2, 3) * int8(gate, 1, 2))


def test_a_layer_scale_is_a_weight_and_a_vector(quantizer: QuantizerOf) -> None:
    x, gamma = torch.randn(2, 6, 4, 5), nn.Parameter(torch.randn(6, 1, 1))
    q = quantizer("int8-channel")
    layer = MulFunction({Role.INPUT: q, Role.WEIGHT: q})
    layer.record = True
    found = layer.call(torch.Tensor.mul, (gamma, x), {})
    close(found, int8(gamma, 0, 1, 2) * int8(x, 0, 2, 3))
    shapes = {r.name: tuple(r.result.values.shape) for r in layer.quantized_tensors()}
    assert shapes == {"weight": (6,), "other": (2, 6, 4, 5)}


def test_a_row_of_parameters_may_scale_features(quantizer: QuantizerOf) -> None:
    x, gamma = torch.randn(2, 4, 6), nn.Parameter(torch.randn(6))
    q = quantizer("int8-tensor")
    layer = MulFunction({Role.INPUT: q, Role.WEIGHT: q})
    assert MulFunction.misfit(torch.mul, (x, gamma), {}) == ""
    close(layer.call(torch.mul, (x, gamma), {}), int8(x, 0, 1, 2) * int8(gamma, 0))


def test_the_axes_of_a_matrix_product(quantizer: QuantizerOf) -> None:
    a, b = torch.randn(2, 3, 7, 8), torch.randn(2, 3, 8, 5)
    for mode, left, right in (
        ("tensor", (0, 1, 2, 3), (0, 1, 2, 3)),
        ("channel", (0, 1, 3), (0, 1, 2)),
        ("token", (3,), (2,)),
        ("chunk8", (3,), (2,)),
    ):
        layer = MatmulFunction({Role.INPUT: quantizer(f"int8-{mode}")})
        close(layer.call(torch.matmul, (a, b), {}), int8(a, *left) @ int8(b, *right))


def test_a_reflected_product_swaps_its_operands(quantizer: QuantizerOf) -> None:
    a, b = torch.randn(7, 8), torch.randn(8, 5)
    layer = MatmulFunction({Role.INPUT: quantizer("int8-channel")})
    close(layer.call(torch.Tensor.__rmatmul__, (b, a), {}), int8(a, 1) @ int8(b, 0))


def test_what_a_product_adds_stays_float(quantizer: QuantizerOf) -> None:
    c, a, b = torch.randn(5), torch.randn(7, 8), torch.randn(8, 5)
    layer = MatmulFunction({Role.INPUT: quantizer("int8-channel")})
    found = layer.call(torch.addmm, (c,), {"mat1": a, "mat2": b, "beta": 0.5, "alpha": 2})
    close(found, 0.5 * c.numpy() + 2 * (int8(a, 1) @ int8(b, 0)))


@pytest.mark.parametrize("listed", [False, True])
def test_an_einsum_sums_what_its_equation_says(listed: bool, quantizer: QuantizerOf) -> None:
    q, k = torch.randn(2, 7, 3, 8), torch.randn(2, 9, 3, 8)
    layer = MatmulFunction({Role.INPUT: quantizer("int8-token")})
    operands = ([q, k],) if listed else (q, k)
    found = layer.call(torch.einsum, ("b q h d, b k h d -> b h q k", *operands), {})
    close(found, np.einsum("bqhd,bkhd->bhqk", int8(q, 3), int8(k, 3)))


def test_a_product_with_a_transposed_parameter(quantizer: QuantizerOf) -> None:
    x, weight = torch.randn(4, 8), nn.Parameter(torch.randn(5, 8))
    layer = MatmulFunction({Role.WEIGHT: quantizer("int8-channel")})
    close(layer.call(torch.matmul, (x, weight.t()), {}), x.numpy() @ int8(weight, 1).T)


def test_a_linear_call(quantizer: QuantizerOf) -> None:
    x, weight, bias = torch.randn(2, 4, 8), torch.randn(5, 8), torch.randn(5)
    q = quantizer("int8-channel")
    layer = LinearFunction({Role.INPUT: q, Role.WEIGHT: q})
    found = layer.call(F.linear, (x,), {"weight": weight, "bias": bias})
    close(found, int8(x, 0, 1) @ int8(weight, 1).T + bias.numpy())


def test_a_convolution_call(quantizer: QuantizerOf) -> None:
    x, weight = torch.randn(2, 6, 5, 5), torch.randn(4, 3, 3, 3)
    q = quantizer("int8-channel")
    layer = ConvFunction({Role.INPUT: q, Role.WEIGHT: q})
    found = layer.call(F.conv2d, (x, weight, None, 1, 1, 1, 2), {})
    by_hand = torch.from_numpy(int8(x, 0, 2, 3)), torch.from_numpy(int8(weight, 1, 2, 3))
    close(found, F.conv2d(*by_hand, padding=1, groups=2).numpy())


def test_a_transposed_convolution_scales_its_output_channels(quantizer: QuantizerOf) -> None:
    x, weight = torch.randn(2, 6, 5, 5), torch.randn(6, 4, 2, 2)
    weight[3:] *= 100  # the second group of inputs, whose outputs have scales of their own
    layer = ConvTransposeFunction({Role.WEIGHT: quantizer("int8-channel")})
    found = layer.call(F.conv_transpose2d, (x, weight), {"stride": 2, "groups": 2})
    halves = [torch.from_numpy(int8(half, 0, 2, 3)) for half in weight.split(3)]
    images = [half.double() for half in x.split(3, dim=1)]
    parts = [F.conv_transpose2d(i, w, stride=2) for i, w in zip(images, halves, strict=True)]
    np.testing.assert_allclose(found.numpy(), torch.cat(parts, 1).numpy(), rtol=1e-4, atol=1e-3)


def test_activations_quantize_what_they_read_and_give(quantizer: QuantizerOf) -> None:
    x = torch.randn(2, 3, 4, 5)
    roles = dict.fromkeys((Role.INPUT, Role.ACT), quantizer("int8-channel"))
    over = (0, 2, 3)
    y = torch.from_numpy(np.maximum(int8(x, *over), 0)).float()
    close(ReLUFunction(roles).call(torch.relu_, (x,), {}), int8(y, *over))
    y = torch.from_numpy(1 / (1 + np.exp(-int8(x, *over)))).float()
    close(SigmoidFunction({Role.INPUT: roles[Role.INPUT]}).call(torch.sigmoid, (x,), {}), y.numpy())


@pytest.mark.parametrize("dim", [1, -1])
def test_a_softmax_is_quantized_along_its_axis_and_masks(dim: int, quantizer: QuantizerOf) -> None:
    x = torch.randn(2, 5, 6)
    x[:, 1:3, 2:4] = float("-inf")
    roles = dict.fromkeys((Role.INPUT, Role.ACT), quantizer("int4-token"))
    found = SoftmaxFunction(roles).call(F.softmax, (x, dim), {})
    assert (found[:, 1:3, 2:4] == 0).all()
    assert found.sum(dim).sub(1).abs().max() < 0.5
    layer = SoftmaxFunction(roles)
    layer.record = True
    layer.call(torch.Tensor.softmax, (x, dim), {})
    shape = (2, 1, 6) if dim == 1 else (2, 5, 1)
    assert {tuple(r.result.scale.shape) for r in layer.quantized_tensors()} == {shape}


@pytest.mark.parametrize("mode", ["channel", "tensor"])
def test_pools_and_means_agree(mode: str, quantizer: QuantizerOf) -> None:
    x = torch.randn(2, 3, 4, 5)
    roles = {Role.INPUT: quantizer(f"int8-{mode}")}
    expected = int8(x, *((0, 2, 3) if mode == "channel" else (0, 1, 2, 3))).mean((2, 3))
    pooled = AdaptiveAvgPoolFunction(roles).call(F.adaptive_avg_pool2d, (x, 1), {})
    close(pooled.flatten(1), expected)
    close(MeanFunction(roles).call(torch.Tensor.mean, (x, [-1, -2]), {}), expected)
    close(MeanFunction(roles).call(torch.mean, (x.permute(0, 2, 3, 1), (1, 2)), {}), expected)


def test_the_output_is_quantized_where_a_quantizer_for_it_is_given(quantizer: QuantizerOf) -> None:
    a, b = torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    layer = AddFunction({Role.OUTPUT: quantizer("int8-channel")})
    close(layer.call(torch.add, (a, b), {}), int8(a + b, 0, 1))
    assert Role.OUTPUT not in AddFunction.roles
