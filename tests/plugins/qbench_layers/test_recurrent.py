"""Quantized LSTM and GRU against torch's, run on weights and inputs quantized by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench_layers import QuantGRU, QuantLSTM
from qbench_suite import Axes, Quantizer, QuantModule, Role

QuantizerOf = Callable[[str], Quantizer]
LAYERS: list[tuple[type[QuantModule], Callable[..., Any]]] = [
    (QuantLSTM, nn.LSTM),
    (QuantGRU, nn.GRU),
]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "deep": {"num_layers": 2, "batch_first": True},
    "both": {"bidirectional": True, "bias": False},
}
each_layer = pytest.mark.parametrize(("layer", "make"), LAYERS, ids=["lstm", "gru"])


def flat(result: tuple[Tensor, Any]) -> list[Tensor]:
    y, state = result
    return [y, *(state if isinstance(state, tuple) else (state,))]


@pytest.mark.parametrize("options", OPTIONS)
@each_layer
def test_without_quantizers_it_is_its_float_twin(
    layer: type[QuantModule], make: Callable[..., Any], options: str
) -> None:
    module = make(6, 5, **OPTIONS[options]).eval()
    twin = layer.from_float(module, {})
    x = torch.randn(4, 3, 6)
    first = module(x)
    for arguments in ((x,), (x, first[1]), (x[0],)):
        for found, expected in zip(flat(twin(*arguments)), flat(module(*arguments)), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projected_state_is_known() -> None:
    module = nn.LSTM(6, 5, proj_size=2).eval()
    x = torch.randn(4, 3, 6)
    expected = flat(module(x))
    found = flat(QuantLSTM.from_float(module, {})(x))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["int8-channel", "fp8_e4m3-tensor", "int8-chunk4"])
@each_layer
def test_it_steps_through_what_was_quantized_by_hand(
    layer: type[QuantModule], make: Callable[..., Any], name: str, quantizer: QuantizerOf
) -> None:
    module = make(6, 5, num_layers=2).eval()
    q = quantizer(name)
    x = torch.randn(4, 3, 6)
    by_hand = copy.deepcopy(module)
    for key, parameter in by_hand.named_parameters():
        if key.startswith("weight"):
            parameter.copy_(q.fake_quantize(parameter, Axes(0, 1, 0, (0,))).values)
    expected = by_hand(q.fake_quantize(x, Axes(2, 2, 1, (0, 1))).values)[0]
    twin = layer.from_float(module, {Role.WEIGHT: q, Role.INPUT: q})
    torch.testing.assert_close(twin(x)[0], expected, atol=1e-6, rtol=1e-6)
    names = {record.name for record in twin.quantized_tensors()}
    assert names == {"weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1"}
    assert set(twin.state_dict()) == set(module.state_dict())
