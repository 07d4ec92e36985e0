"""Weights of functions: quantized once, again after a change, and seen by whoever checks them."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qbench_layers.functions.linear import ConvFunction, LinearFunction
from qbench_layers.functions.matmul import MatmulFunction
from qbench_suite import Quantized, Quantizer, Role

QuantizerOf = Callable[[str], Quantizer]


@pytest.fixture
def linear(quantizer: QuantizerOf) -> LinearFunction:
    return LinearFunction({Role.WEIGHT: quantizer("int8-channel")})


def records(layer: LinearFunction) -> list[Quantized]:
    return list(layer.quantized_tensors())


def count(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Tensors that are fake-quantized from now on."""
    seen: list[Tensor] = []
    before = Quantizer.fake_quantize

    def fake_quantize(self: Quantizer, x: Tensor, *args: object, **kwargs: object) -> object:
        seen.append(x)
        return before(self, x, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Quantizer, "fake_quantize", fake_quantize)
    return seen


def test_a_parameter_is_quantized_once(
    linear: LinearFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, seen = nn.Parameter(torch.randn(5, 8)), count(monkeypatch)
    for _ in range(3):
        linear.call(F.linear, (torch.randn(4, 8), weight), {})
    assert len(seen) == 1
    assert [record.name for record in records(linear)] == ["weight"]


def test_views_of_a_parameter_are_known_again(
    quantizer: QuantizerOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, seen = nn.Parameter(torch.randn(5, 8)), count(monkeypatch)
    layer = MatmulFunction({Role.WEIGHT: quantizer("int8-channel")})
    for _ in range(3):
        layer.call(torch.matmul, (torch.randn(4, 8), weight.t()), {})
    assert len(seen) == 1


@pytest.mark.parametrize("parameter", [False, True])
def test_a_changed_weight_is_quantized_again(linear: LinearFunction, parameter: bool) -> None:
    weight: Tensor = torch.randn(5, 8)
    weight = nn.Parameter(weight) if parameter else weight
    x = torch.eye(8)
    linear.call(F.linear, (x, weight), {})
    weight.mul_(3)
    found = linear.call(F.linear, (x, weight), {})
    torch.testing.assert_close(found, weight.t(), atol=0.1, rtol=0)
    (record,) = records(linear)
    assert torch.equal(record.result.values.t(), found)


def test_a_weight_made_anew_at_every_call_is_quantized_at_every_call(
    linear: LinearFunction,
) -> None:
    x, scale = torch.eye(8), torch.randn(5, 8)
    for factor in (1.0, 2.0, 3.0):
        found = linear.call(F.linear, (x, scale * factor), {})
        torch.testing.assert_close(found, (scale * factor).t(), atol=0.1, rtol=0)
        gc.collect()
    # That of the last call is still there to be looked at, and no other.
    assert [record.name for record in records(linear)] == ["weight"]


def test_two_weights_of_one_call_site_are_both_kept(linear: LinearFunction) -> None:
    first, second = nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(5, 8))
    x = torch.eye(8)
    for weight in (first, second, first):
        found = linear.call(F.linear, (x, weight), {})
        torch.testing.assert_close(found, weight.t(), atol=0.1, rtol=0)
    assert [record.name for record in records(linear)] == ["weight", "weight.2"]


def test_a_watcher_is_shown_a_weight_when_it_is_quantized(linear: LinearFunction) -> None:
    shown: list[Quantized] = []
    linear.watch = shown.append
    weight = nn.Parameter(torch.randn(5, 8))
    for _ in range(2):
        linear.call(F.linear, (torch.randn(4, 8), weight), {})
    assert [record.name for record in shown] == ["weight"]
    assert torch.equal(shown[0].source, weight)


def test_what_is_read_is_an_attribute(quantizer: QuantizerOf) -> None:
    weight = nn.Parameter(torch.randn(6, 3, 3, 3).to(memory_format=torch.channels_last))
    layer = ConvFunction({Role.WEIGHT: quantizer("int8-channel")})
    layer.call(F.conv2d, (torch.randn(1, 3, 8, 8), weight), {})
    (record,) = layer.quantized_tensors()
    assert record.result.values.shape == (6, 27)
    read: Tensor = layer.weight  # type: ignore[attr-defined]
    assert read.stride() == weight.stride()
    assert torch.equal(read.permute(0, 2, 3, 1).reshape(6, 27), record.result.values)


def test_weights_of_an_inference_model_are_kept_too(linear: LinearFunction) -> None:
    with torch.inference_mode():
        weight, x = nn.Parameter(torch.randn(5, 8)), torch.eye(8)
        for _ in range(2):
            found = linear.call(F.linear, (x, weight), {})
        torch.testing.assert_close(found, weight.t(), atol=0.1, rtol=0)
    assert [record.name for record in records(linear)] == ["weight"]


def test_without_a_quantizer_a_weight_is_the_very_tensor() -> None:
    weight = torch.randn(5, 8)
    layer = LinearFunction({})
    assert layer.keep_weight("weight", weight) is weight
    assert not records(layer)
