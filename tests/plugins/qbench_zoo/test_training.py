"""Training: deterministic by its seed, and without traces in the process that runs it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from qbench_suite import DatasetError
from qbench_zoo.architectures import ARCHITECTURES, Architecture
from qbench_zoo.augmentation import jitter
from qbench_zoo.digits import Digits, load
from qbench_zoo.training import Recipe, train

TWO_STEPS = Recipe(epochs=1, batch=16)


@pytest.fixture(params=sorted(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> Architecture:
    """Each architecture of the zoo."""
    return ARCHITECTURES[request.param]


@pytest.fixture(scope="module")
def few() -> Digits:
    """Digits for two steps and a remainder that is left out."""
    digits = load("train")
    return Digits(digits.images[:40], digits.labels[:40])


def trained(architecture: Architecture, digits: Digits, recipe: Recipe) -> dict[str, Tensor]:
    """Return the tensors that a training ends with."""
    return train(architecture, digits, recipe).state_dict()


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether all tensors have the same bits."""
    return all(torch.equal(first[key], second[key]) for key in first.keys() | second.keys())


def test_the_same_seed_gives_the_same_bits(architecture: Architecture, few: Digits) -> None:
    first = trained(architecture, few, TWO_STEPS)
    torch.rand(3)  # what the caller draws in between must not matter
    assert equal(first, trained(architecture, few, TWO_STEPS))


def test_another_seed_gives_other_weights(few: Digits) -> None:
    resnet = ARCHITECTURES["resnet"]
    other = Recipe(epochs=1, batch=16, seed=1)
    assert not equal(trained(resnet, few, TWO_STEPS), trained(resnet, few, other))


def test_training_leaves_generator_and_threads_alone(few: Digits) -> None:
    before = torch.get_rng_state(), torch.get_num_threads()
    model = train(ARCHITECTURES["resnet"], few, Recipe(epochs=1, batch=16, threads=2))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]
    assert not model.training


def test_a_few_epochs_lower_the_loss(few: Digits) -> None:
    seen: list[tuple[int, float]] = []
    train(
        ARCHITECTURES["resnet"],
        few,
        Recipe(epochs=6, batch=20),
        lambda epoch, loss: seen.append((epoch, loss)),
    )
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(loss) for _, loss in seen)
    assert seen[-1][1] < seen[0][1]


def test_fewer_digits_than_a_batch_are_an_error(few: Digits) -> None:
    with pytest.raises(DatasetError, match="at least one batch of 64 digits; got 40; give more"):
        train(ARCHITECTURES["resnet"], few, Recipe())


def test_jitter_moves_digits_a_little() -> None:
    images = load("train").images[:64]
    moved = jitter(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert moved.min() >= 0
    assert moved.max() <= 1
    change = (moved - images).abs().mean(dim=(1, 2, 3))
    assert change.min() > 0.001
    assert change.max() < 0.25
    assert torch.equal(moved, jitter(images, torch.Generator().manual_seed(0)))
