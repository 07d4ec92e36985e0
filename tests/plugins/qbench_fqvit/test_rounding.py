"""Weights rounded anew: what a rule is shown, and what becomes of its codes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from qbench_fqvit import QuantTimmVitBlock, convert, restore, round_weights
from qbench_suite import ConversionError, IntegerModel, RoundingProblem, RoundingRule


@dataclass(frozen=True, kw_only=True)
class Nearest(RoundingRule):
    """Rounds to nearest, and keeps what it was shown."""

    name: str = "seen"
    problems: list[RoundingProblem] = field(default_factory=list)

    def round(self, problem: RoundingProblem) -> Tensor:
        self.problems.append(problem)
        return (problem.weight / problem.scale).round().clamp(problem.low, problem.high)


@dataclass(frozen=True, kw_only=True)
class Greedy(RoundingRule):
    """Column by column, the neighbour that leaves the least error of the output."""

    name: str = "greedy"

    def round(self, problem: RoundingProblem) -> Tensor:
        weight = problem.weight[0].double() / problem.scale[0].double()
        moments = problem.moments[0] + 1e-6 * torch.eye(weight.shape[1], dtype=torch.float64)
        codes = weight.round()
        for _ in range(3):
            for column in range(weight.shape[1]):
                pull = (weight - codes) @ moments[:, column] / moments[column, column]
                codes[:, column] = (codes[:, column] + pull).round()
        return codes.clamp(problem.low, problem.high).float()[None]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model(zoo: Any) -> nn.Sequential:
    blocks = [zoo.randomized(Block(24, 2, qkv_bias=True), seed) for seed in range(2)]
    return nn.Sequential(*blocks)


@pytest.fixture
def batches() -> list[Tensor]:
    # Correlated channels, as rounding to nearest has nothing to gain otherwise.
    mix = noise(24, 24, seed=7)
    return [noise(8, 9, 24, seed=seed) @ mix / 4 for seed in (1, 2)]


def codes_of(integer: IntegerModel) -> list[Tensor]:
    return [v.clone() for k, v in integer.module.state_dict().items() if k.endswith(".weight")]


def test_rounding_to_nearest_changes_nothing(model: nn.Sequential, batches: list[Tensor]) -> None:
    integer = convert(model, batches)
    before = {name: value.clone() for name, value in integer.module.state_dict().items()}
    rule, done = Nearest(), []
    round_weights(integer, rule, batches, progress=done.append)
    assert all(torch.equal(v, before[k]) for k, v in integer.module.state_dict().items())
    assert done == [f"{i}.{name}" for i in range(2) for name in ("qkv", "proj", "fc1", "fc2")]
    assert len(rule.problems) == 8


def test_a_rule_sees_moments_of_all_inputs_and_pairs_of_some(
    model: nn.Sequential, batches: list[Tensor]
) -> None:
    integer = convert(model, batches)
    rule = Nearest()
    round_weights(integer, rule, batches, rows=50, seed=3)
    block = integer.blocks["0"]
    assert isinstance(block, QuantTimmVitBlock)
    steps = [block.steps(block.quantize_input(x)) for x in batches]
    codes = torch.cat([step["norm1"].flatten(0, 1) for step in steps]).double()
    qkv, _, _, fc2 = rule.problems[:4]
    torch.testing.assert_close(qkv.moments[0], codes.T @ codes)
    hidden = torch.cat([step["act"].flatten(0, 1) for step in steps]).double()
    hidden = hidden - block.layout.act_zero_point
    torch.testing.assert_close(fc2.moments[0], hidden.T @ hidden)
    for problem in rule.problems:
        assert (
            problem.inputs.shape == problem.float_inputs.shape == (1, 50, problem.weight.shape[2])
        )
        near = (problem.inputs - problem.float_inputs).square().mean()
        assert near < 0.02 * problem.inputs.square().mean()
        assert problem.seed == 3
    exact = block.float_stages(torch.cat(batches))["norm1"].flatten(0, 1) / block.scales.norm1
    distance = (qkv.float_inputs[0][:, None] - exact).norm(dim=2).amin(1)
    assert float(distance.max()) < 1e-2


def test_a_better_rule_brings_the_output_nearer(
    zoo: Any, model: nn.Sequential, batches: list[Tensor]
) -> None:
    integer = convert(model, batches)
    # Few codes make the rounding of weights what errs most.
    held_out = noise(8, 9, 24, seed=5) @ noise(24, 24, seed=7) / 4
    before, plain = codes_of(integer), integer.module(held_out)
    biases = integer.blocks["0"].state_dict()["fc2.bias"].clone()
    round_weights(integer, Greedy(), batches)
    changed = [not torch.equal(a, b) for a, b in zip(before, codes_of(integer), strict=True)]
    assert all(changed)
    assert not torch.equal(biases, integer.blocks["0"].state_dict()["fc2.bias"])
    assert zoo.sqnr_db(model(held_out), integer.module(held_out)) > zoo.sqnr_db(
        model(held_out), plain
    )


def test_a_restored_model_cannot_be_rounded_anew(
    model: nn.Sequential, batches: list[Tensor]
) -> None:
    integer = convert(model, batches)
    loaded = restore(model, integer.module.state_dict())
    with pytest.raises(ConversionError, match="loaded, unpickled or released"):
        round_weights(loaded, Nearest(), batches)


def test_codes_keep_to_their_range_and_shape(model: nn.Sequential, batches: list[Tensor]) -> None:
    block = convert(model, batches).blocks["0"]
    assert isinstance(block, QuantTimmVitBlock)
    layer = block.get_quantized_layers()["fc2"]
    for bad in (
        torch.full_like(layer.weight, 1).float() * 128,
        torch.full_like(layer.weight, -128),
        layer.weight[:-1],
        layer.weight.float() + 0.5,
        torch.full(layer.weight.shape, float("nan")),
    ):
        with pytest.raises(ConversionError, match="Weight codes are integers"):
            layer.set_codes(bad)


def test_the_bias_takes_the_zero_point_out(model: nn.Sequential, batches: list[Tensor]) -> None:
    block = convert(model, batches).blocks["0"]
    assert isinstance(block, QuantTimmVitBlock)
    layer = block.get_quantized_layers()["fc2"]
    origin = layer.known_origin()
    assert origin.zero_point != 0
    layer.set_codes(torch.zeros_like(layer.weight))
    plain = torch.round(origin.bias.double() / origin.scale.double()).int()
    assert torch.equal(layer.bias, plain)
    nothing = torch.full((1, layer.weight.shape[1]), origin.zero_point, dtype=torch.int8)
    layer.set_codes(origin.nearest())
    assert torch.equal(layer(nothing)[0], plain)
