"""A family is told by structure: stems, classifiers, attention, residual sums."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qbench_suite import Manager, default_manager
from qbench_suite.convert.sites import Survey
from qbench_suite.convert.survey import survey


class Residual(nn.Module):
    """Two residual blocks of convolutions, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one = nn.Conv2d(8, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 8, 3, padding=1)
        self.classify = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.one(x).relu()
        x = x + self.two(x).relu()
        return self.classify(x.mean((2, 3)))


class Tokens(nn.Module):
    """Patches that attend, and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.wide = nn.Linear(8, 64)
        self.narrow = nn.Linear(64, 8)
        self.head = nn.Linear(8, 5)
        self.teacher = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + (x @ x.transpose(1, 2)).softmax(-1) @ x
        x = x + self.narrow(self.wide(x).relu())
        x = x.mean(1)
        return (self.head(x) + self.teacher(x)) / 2


class Stems(Tokens):
    """Two stems beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.patches(x), self.other(x)
        x = (first + second).mean((2, 3))
        return self.head(x)


def found(model: nn.Module, manager: Manager) -> Survey:
    return survey(model, torch.randn(2, 3, 16, 16), manager)


def test_residual_convolutions_are_a_resnet(manager: Manager) -> None:
    survey = found(Residual(), manager)
    assert (survey.family, survey.stem, survey.classifier) == ("resnet", ("stem",), ("classify",))


def test_tokens_that_attend_are_a_vit_with_both_its_heads(manager: Manager) -> None:
    survey = found(Tokens(), manager)
    assert (survey.family, survey.stem) == ("vit", ("patches",))
    assert survey.classifier == ("head", "teacher")
    assert (survey.first, survey.last) == ("patches", "teacher")


def test_every_stem_is_one(manager: Manager) -> None:
    assert found(Stems(), manager).stem == ("patches", "other")


def test_anything_else_is_generic(manager: Manager) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.ReLU(), nn.Linear(8, 5))
    survey = found(model, manager)
    assert (survey.family, survey.stem, survey.classifier) == ("generic", ("1",), ("3",))


def test_model_without_products_has_no_first_and_no_last(manager: Manager) -> None:
    survey = found(nn.Sequential(nn.ReLU()), manager)
    assert (survey.first, survey.last, survey.multiply_adds) == ("", "", 0)


@pytest.mark.parametrize(
    ("name", "family"),
    [("resnet18", "resnet"), ("vit_tiny_patch16_224", "vit"), ("vgg11", "generic")],
)
def test_known_models_are_of_their_families(name: str, family: str) -> None:
    import timm

    build: Callable[..., nn.Module] = timm.create_model
    model = build(name, img_size=32) if family == "vit" else build(name)
    images = torch.randn(1, 3, 32, 32)
    if name == "vgg11":
        model = model.features
    assert survey(model, images, default_manager()).family == family
