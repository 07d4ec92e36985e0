"""The models of the zoo: weights, cards and plugin entries agree with one another."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from torch import nn

from qbench_suite import ModelError
from qbench_zoo.accuracy import top1
from qbench_zoo.architectures import ARCHITECTURES, INPUT_SIZE, NUM_CLASSES, architecture
from qbench_zoo.card import Card, read_card, sha256
from qbench_zoo.commands import TOLERANCE
from qbench_zoo.digits import HELD_OUT, load
from qbench_zoo.training import Recipe
from qbench_zoo.weights import load_model, weights_path

#: What each model must reach on the held-out digits, in percent.
FLOOR = {"vit": 96.0}


@pytest.fixture(params=sorted(ARCHITECTURES))
def name(request: pytest.FixtureRequest) -> str:
    """Name each model of the zoo."""
    return str(request.param)


@pytest.fixture
def card(name: str) -> Card:
    """Read the card of that model."""
    return read_card(name)


def test_weights_are_the_bytes_of_the_card(name: str, card: Card) -> None:
    path = weights_path(name)
    assert sha256(path) == card.sha256
    assert path.stat().st_size == card.bytes <= 1_000_000


def test_accuracy_is_that_of_the_card(name: str, card: Card) -> None:
    digits = load("test")
    assert card.held_out == len(digits) == HELD_OUT
    measured = top1(load_model(name), digits)
    assert measured == pytest.approx(card.top1, abs=TOLERANCE + 1e-6)
    assert measured >= FLOOR.get(name, 97.0)


def test_a_loaded_model_is_a_float32_classifier_in_eval_mode(name: str, card: Card) -> None:
    model = load_model(name)
    assert not any(module.training for module in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert sum(parameter.numel() for parameter in model.parameters()) == card.parameters
    assert model(torch.zeros(2, *INPUT_SIZE)).shape == (2, NUM_CLASSES)


def test_weights_are_genuine_float32(name: str) -> None:
    """Weights stored in half precision and widened would survive a round trip through it."""
    weights = torch.cat([p.detach().flatten() for p in load_model(name).parameters() if p.ndim > 1])
    for narrow in (torch.float16, torch.bfloat16):
        assert (weights.to(narrow).float() != weights).float().mean() > 0.9


def test_the_card_tells_the_architecture_and_recipe(name: str, card: Card) -> None:
    chosen = architecture(name)
    assert (card.name, card.architecture) == (name, chosen.timm_name)
    assert card.kwargs.keys() == chosen.kwargs.keys()
    assert card.recipe == asdict(Recipe())


def test_loading_leaves_the_random_generator_alone() -> None:
    state = torch.get_rng_state()
    load_model("resnet")
    assert torch.equal(torch.get_rng_state(), state)


def test_two_loads_share_no_memory() -> None:
    first, second = load_model("resnet"), load_model("resnet")
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    assert any(parameter.any() for parameter in second.parameters())


def test_layer_scales_let_the_blocks_speak() -> None:
    """A scale left near zero would hide whatever quantization does to its block."""
    named = [*load_model("vit").named_parameters(), *load_model("convnext").named_parameters()]
    scales = [value for key, value in named if key.endswith("gamma")]
    assert len(scales) == 2 * 4 + 9
    assert min(scale.abs().mean().item() for scale in scales) > 0.02


def test_normalisation_free_means_no_normalisation() -> None:
    kinds = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    assert not [module for module in load_model("nfnet").modules() if isinstance(module, kinds)]


def test_an_unknown_model_is_an_error_that_names_the_models() -> None:
    with pytest.raises(ModelError) as error:
        load_model("vgg")
    assert str(error.value) == (
        "a zoo model must be one of convnext, efficientnet, nfnet, resnet, vit; got 'vgg'; "
        "`qbench list models` shows the models of every plugin"
    )
