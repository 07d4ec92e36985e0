"""The methods of the plugin: registered by name, each converting by its scheme."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from qbench_fqvit import METHODS
from qbench_fqvit.methods import MODELS, misfit
from qbench_suite.manager import default_manager


def test_every_method_is_registered_and_two_are_default() -> None:
    registry = default_manager().integer_methods
    assert {method.name for method in METHODS} <= set(registry.names())
    assert {m.name for m in METHODS if m.default} == {"fqvit.lis4", "fqvit.log8"}
    assert all(method.description and method.format == "int8" for method in METHODS)


@pytest.fixture(scope="module")
def outliers() -> Tensor:
    x = torch.randn(16, 17, 48, generator=torch.Generator().manual_seed(0))
    x[..., :3] *= 25
    return x


@pytest.mark.parametrize("name", [method.name for method in METHODS])
def test_each_method_converts(zoo: Any, outliers: Tensor, name: str) -> None:
    model = nn.Sequential(zoo.randomized(Block(48, 4, qkv_bias=True)))
    integer = (
        default_manager().integer_methods.get(name).convert(model, [outliers[:8], outliers[8:]])
    )
    block = integer.blocks["0"]
    assert integer.refused == {}
    codes = block.quantize_input(outliers)
    assert codes.dtype == (torch.int16 if name.endswith("residual16") else torch.int8)
    quality = zoo.sqnr_db(model(outliers), integer.module(outliers))
    # One scale leaves the many small channels next to nothing beside the large ones.
    exact, found = model(outliers)[..., 3:], integer.module(outliers)[..., 3:]
    assert quality > 24
    assert (zoo.sqnr_db(exact, found) > 20) == ("minmax" not in name)


def test_a_model_without_a_block_of_a_known_kind_is_a_misfit() -> None:
    assert misfit(nn.Sequential(nn.Linear(4, 4))).endswith("in integers: there is none")
    gated = nn.Sequential(Block(16, 2), Block(16, 2))
    assert misfit(gated) == ""
    for block in gated:
        block.attn = nn.MultiheadAttention(16, 2)
    reason = misfit(gated)
    assert reason.startswith("no transformer block can run in integers: 0")
    assert "; 1" in reason


def test_default_models_are_known() -> None:
    models = default_manager().models
    assert [models.get(name).name for name in MODELS] == list(MODELS)
    assert {method.default_models for method in METHODS} == {MODELS}
