"""Watching shows each site once it has run, in float and converted models, and disturbs neither."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qbench_suite import Manager, default_manager
from qbench_suite.convert.survey import survey
from qbench_suite.convert.swap import convert
from qbench_suite.convert.watch import watching


class InPlace(nn.Module):
    """A model that works in place wherever it can."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.act = nn.ReLU(inplace=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        y = self.act(y)
        y += x
        y.add_(x)
        y[:, 0] = 0
        y = F.relu(y, inplace=True)
        return self.out(y)


SITES = ["fc", "act", ":add", ":add.2", ":relu", "out"]


def plain(model: nn.Module, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """(first input, output) of each site, computed by hand."""
    fc = F.linear(x, model.fc.weight, model.fc.bias)
    act = fc.clamp(min=0)
    first, second = act + x, act + 2 * x
    third = second.clone()
    third[:, 0] = 0
    relu = third.clamp(min=0)
    out = F.linear(relu, model.out.weight, model.out.bias)
    steps = [(x, fc), (fc, act), (act, first), (first, second), (third, relu), (relu, out)]
    return dict(zip(SITES, steps, strict=True))


@torch.no_grad()
def test_float_model_is_shown_site_by_site_and_later_work_in_place_changes_nothing(
    manager: Manager,
) -> None:
    model, x = InPlace().eval(), torch.randn(3, 4)
    found = survey(model, x, manager)
    shown: dict[str, tuple[Tensor, Tensor]] = {}
    with watching(model, found, lambda name, i, o: shown.update({name: (i[0], o)})):
        y = model(x)
    assert list(shown) == SITES
    assert torch.equal(y, model(x))
    for name, (read, given) in plain(model, x).items():
        torch.testing.assert_close(shown[name][0], read)
        torch.testing.assert_close(shown[name][1], given)


@torch.no_grad()
def test_converted_model_is_shown_the_same_sites(manager: Manager, assigned: Any) -> None:
    model, x = InPlace().eval(), torch.randn(3, 4)
    found = survey(model, x, manager)
    converted = convert(model, found, assigned(found, bare=True))
    shown: dict[str, tuple[Tensor, Tensor]] = {}
    with watching(converted, found, lambda name, i, o: shown.update({name: (i[0], o)})):
        converted(x)
    assert list(shown) == SITES
    for name, (read, given) in plain(model, x).items():
        torch.testing.assert_close(shown[name][0], read)
        torch.testing.assert_close(shown[name][1], given)
    shown.clear()
    converted(x)
    assert not shown


def test_inference_mode_is_watched_too(manager: Manager) -> None:
    model, x = InPlace().eval(), torch.randn(3, 4)
    found = survey(model, x, manager)
    shown: dict[str, Tensor] = {}
    with torch.inference_mode(), watching(model, found, lambda n, _, o: shown.update({n: o})):
        model(x)
    expected = plain(model, x)
    assert list(shown) == SITES
    assert all(torch.allclose(shown[name], expected[name][1]) for name in SITES)


def test_float_model_is_as_it_was_afterwards_even_if_it_failed(manager: Manager) -> None:
    model = InPlace().eval()
    found = survey(model, torch.randn(3, 4), manager)
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError), watching(model, found, lambda *_: None):
        model(torch.randn(3, 5))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert model.act.inplace
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


@torch.no_grad()
def test_watched_attention_has_the_bits_of_the_unwatched(manager: Manager) -> None:
    model = nn.Sequential(nn.Linear(8, 8), Attends()).eval()
    x = torch.randn(2, 5, 8)
    found = survey(model, x, default_manager())
    with watching(model, found, lambda *_: None):
        y = model(x)
    assert torch.equal(y, model(x))


class Attends(nn.Module):
    """Self-attention by torch's own module, which has a fused path of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return result


@torch.no_grad()
def test_layer_that_a_norm_is_folded_into_is_passed_over(manager: Manager, assigned: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))
    model[1].running_mean.uniform_()
    model.eval()
    x = torch.randn(2, 3, 4, 4)
    found = survey(model, x, manager)
    converted = convert(model, found, assigned(found, bare=True), fold_batch_norm=True)
    shown: dict[str, Tensor] = {}
    with watching(converted, found, lambda name, _, output: shown.update({name: output})):
        converted(x)
    assert list(shown) == ["1", "3"]
    torch.testing.assert_close(shown["1"], model[1](model[0](x)))
