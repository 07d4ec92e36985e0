"""Calibration: static scales of what was seen, nothing of what was not, and every way to fail."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench_formats import FORMATS
from qbench_layers.activations import QuantGELU
from qbench_layers.linear import QuantLinear
from qbench_modes import MODES
from qbench_ranges import RANGE_RULES
from qbench_suite import Axes, Quantizer, QuantModule, Role
from qbench_suite.calibration import calibrate
from qbench_suite.errors import ConversionError
from qbench_suite.layers import Quantizing
from qbench_suite.scaling.compiling import eager

FORMAT = {format.name: format for format in FORMATS}
MODE = {mode.name: mode for mode in MODES}
RULE = {rule.name: rule for rule in RANGE_RULES}


def quantizer(name: str, rule: str = "") -> Quantizer:
    format, mode = name.split("-")
    return Quantizer(FORMAT[format], MODE[mode], range_rule=RULE[rule] if rule else None)


@pytest.fixture(autouse=True)
def _eager() -> Iterator[None]:
    torch.manual_seed(0)
    with eager(), torch.no_grad():
        yield


def roles(name: str, rule: str = "") -> Mapping[Role, Quantizer]:
    return dict.fromkeys((Role.WEIGHT, Role.INPUT, Role.ACT), quantizer(name, rule))


def mlp(name: str, rule: str = "") -> tuple[nn.Sequential, dict[str, Quantizing]]:
    first = QuantLinear.from_float(nn.Linear(6, 8), roles(name, rule))
    act = QuantGELU.from_float(nn.GELU(), roles(name, rule))
    return nn.Sequential(first, act), {"fc": first, "act": act}


BATCHES = [torch.randn(n, 6, generator=torch.Generator().manual_seed(n)) * n for n in (4, 5, 3)]


@pytest.mark.parametrize("name", ["int8-tensor", "int8-channel", "uint8-tensor", "fp8_e4m3-tensor"])
@pytest.mark.parametrize("rule", ["", "absmax"])
def test_scales_are_those_of_all_the_values_at_once(name: str, rule: str) -> None:
    model, layers = mlp(name, rule)
    assert calibrate(layers, model, BATCHES) == 12
    whole = torch.cat(BATCHES)
    expected = quantizer(name).fake_quantize(whole)
    static = layers["fc"].static_scales["input"]
    assert torch.equal(static.scale, expected.scale)
    if expected.zero_point is not None:
        assert torch.equal(static.zero_point, expected.zero_point)  # type: ignore[arg-type]


def test_float_activations_flow_while_weights_are_quantized() -> None:
    model, layers = mlp("int4-tensor")
    fc = model[0]
    assert isinstance(fc, QuantLinear)
    calibrate(layers, model, BATCHES)
    hidden = torch.cat(BATCHES) @ fc.weight.T + fc.bias  # type: ignore[operator]
    amax = nn.functional.gelu(hidden).abs().max()
    torch.testing.assert_close(float(layers["act"].static_scales["act"].scale), float(amax / 7))


@pytest.mark.parametrize("rule", [rule.name for rule in RANGE_RULES])
def test_every_rule_gives_scales_that_are_used(rule: str) -> None:
    model, layers = mlp("int8-channel", rule)
    calibrate(layers, model, BATCHES)
    seen: list[Any] = []
    layers["fc"].watch = seen.append
    model(torch.randn(2, 6) * 100)
    assert torch.equal(seen[0].result.scale, layers["fc"].static_scales["input"].scale)
    assert bool((seen[0].result.values.abs() <= 127.01 * seen[0].result.scale).all())


def test_batches_of_any_size_and_empty_ones() -> None:
    model, layers = mlp("int8-channel")
    batches = [torch.empty(0, 6), *BATCHES, torch.empty(0, 6)]
    assert calibrate(layers, model, batches) == 12
    model(torch.randn(7, 6))


def test_observing_ends_whatever_happens() -> None:
    model, layers = mlp("int8-tensor")
    calibrate(layers, model, BATCHES)
    before = dict(layers["fc"].static_scales)

    def fail(x: Tensor) -> None:
        model(x)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(layers, fail, [10 * BATCHES[0]])
    assert layers["fc"].observe is layers["act"].observe is None
    assert layers["fc"].static_scales == before


@pytest.mark.parametrize("batches", [[], [torch.empty(0, 6)]])
def test_no_image_is_an_error(batches: list[Tensor]) -> None:
    model, layers = mlp("int8-tensor")
    with pytest.raises(ConversionError, match=r"at least one image; calibration got none\. Set"):
        calibrate(layers, model, batches)
    assert layers["fc"].observe is None


@pytest.mark.parametrize("name", ["int8-token", "fp8_e4m3-mx32"])
def test_a_mode_that_keeps_positions_is_an_error(name: str) -> None:
    model, layers = mlp(name)
    with pytest.raises(
        ConversionError, match=r"'input' of layer 'fc' has scales of shape \(4, 1\)"
    ):
        calibrate(layers, model, BATCHES)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_tensor_without_a_finite_value_names_its_layer(value: float) -> None:
    model, layers = mlp("int8-tensor")
    with pytest.raises(ConversionError, match="'input' of layer 'fc' were NaN or"):
        calibrate(layers, model, [torch.full((2, 6), value)])
    assert not layers["act"].static_scales


def test_all_zeros_have_scale_one() -> None:
    model, layers = mlp("int8-tensor")
    calibrate(layers, model, [torch.zeros(2, 6)])
    assert float(layers["fc"].static_scales["input"].scale) == 1.0


def test_a_layer_that_is_never_reached_is_reported_and_stays_dynamic() -> None:
    model, layers = mlp("int8-tensor")
    layers["spare"] = QuantGELU.from_float(nn.GELU(), roles("int8-tensor"))
    weights_only = {Role.WEIGHT: quantizer("int8-tensor")}
    layers["weights"] = QuantLinear.from_float(nn.Linear(2, 2), weights_only)
    with pytest.warns(RuntimeWarning, match="saw no tensor of spare: these layers keep dynamic"):
        calibrate(layers, model, BATCHES)
    assert layers["spare"].static_scales == {}


class Twice(QuantModule):
    """Quantizes two tensors under one name."""

    roles = (Role.INPUT,)

    @classmethod
    def from_float(cls, module: Any, quantizers: Any, *, feature_axis: int | None = None) -> Twice:
        return cls(quantizers, feature_axis=feature_axis)

    def forward(self, x: Tensor) -> Tensor:
        return self.quantize(Role.INPUT, "input", x) + self.quantize(Role.INPUT, "input", 3 * x)


def test_calls_under_one_name_share_a_scale() -> None:
    layer = Twice(roles("int8-tensor"))
    calibrate({"twice": layer}, layer, BATCHES)
    amax = 3 * torch.cat(BATCHES).abs().max()
    assert torch.equal(layer.static_scales["input"].scale.view(()), amax / 127)


def test_a_layer_under_two_names_is_observed_once() -> None:
    model, layers = mlp("int8-tensor")
    shared = dict(layers, again=layers["fc"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrate(shared, lambda x: model[1](model[0](x)), BATCHES)
    assert set(layers["fc"].static_scales) == {"input"}


def test_layers_without_quantizers_are_left_alone() -> None:
    layer = QuantGELU.from_float(nn.GELU(), {})
    model, layers = mlp("int8-tensor")
    calibrate({**layers, "float": layer}, lambda x: layer(model(x)), BATCHES)
    assert layer.static_scales == {}


def test_other_axes_of_the_same_scales_are_one_tensor() -> None:
    layer = Twice(roles("int8-channel"))
    calibrate({"a": layer}, layer, [torch.randn(2, 5, 6), torch.randn(2, 9, 6)])
    assert layer.static_scales["input"].scale.shape == (1, 1, 6)
    with pytest.raises(ConversionError, match=r"\(1, 1, 6\) and then \(1, 6\)"):
        calibrate({"a": layer}, layer, [torch.randn(2, 5, 6), torch.randn(2, 6)])


def test_affine_scales_hold_zero() -> None:
    q = replace(quantizer("uint8-tensor"), range_rule=RULE["absmax"])
    layer = Twice({Role.INPUT: q})
    calibrate({"a": layer}, layer, [torch.rand(3, 4) + 5])
    static = layer.static_scales["input"]
    assert static.zero_point is not None
    assert static.zero_point.tolist() == [[0.0]]
    assert torch.equal(
        q.fake_quantize(torch.zeros(2, 2), Axes.features(2), scales=static).values,
        torch.zeros(2, 2),
    )
