"""Fingerprints: they follow whatever changes the logits of a model, and nothing else."""

from __future__ import annotations

import enum
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench_suite.engine.fingerprint import fingerprint

CPU = torch.device("cpu")
FACTOR = 1.0


def net(seed: int = 0, bias: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 2, bias=bias), nn.BatchNorm1d(2))


class Mode(enum.Enum):
    """Two modes."""

    AVG = 1
    MAX = 2


@dataclass(frozen=True)
class Config:
    """A configuration."""

    temperature: float


class Holder(nn.Module):
    """Holds one plain attribute, one level below the root."""

    def __init__(self, value: object = 1.0) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return x * FACTOR


def held(value: object) -> str:
    return fingerprint(nn.Sequential(nn.Identity(), Holder(value)), CPU)


def plus(x: Tensor, by: float = 1.0) -> Tensor:
    return x + by


def minus(x: Tensor, by: float = 1.0) -> Tensor:
    return x - by


def scaled(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x * factor


def test_it_follows_weights_buffers_and_structure() -> None:
    first = fingerprint(net(), CPU)
    assert fingerprint(net(), CPU) == first
    moved, changed = net(), net()
    moved[1].running_mean += 1  # type: ignore[index]
    with torch.no_grad():
        next(changed.parameters())[0, 0] += 1e-6
    others = [moved, changed, net(bias=False), nn.Sequential(net(), nn.ReLU())]
    found = {fingerprint(module, CPU) for module in others}
    found |= {fingerprint(net(), torch.device("cuda"))}
    assert len(found | {first}) == 6


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1.0, -1.0),
        (1, True),
        ("avg", "max"),
        (None, 0),
        ((1, 2), (2, 1)),
        ([1, [2]], [1, [3]]),
        ({"a": 1}, {"a": 2}),
        ({"a", "b"}, {"a", "c"}),
        (torch.float32, torch.bfloat16),
        (plus, minus),
        (scaled(1.0), scaled(2.0)),
        (functools.partial(plus, by=1.0), functools.partial(plus, by=2.0)),
        (Mode.AVG, Mode.MAX),
        (Config(1.0), Config(2.0)),
        (SimpleNamespace(t=1.0), SimpleNamespace(t=2.0)),
        (torch.zeros(2), torch.ones(2)),
        ([nn.ReLU()], [nn.GELU()]),
    ],
)
def test_it_follows_plain_attributes(a: object, b: object) -> None:
    assert held(a) == held(a)
    assert held(a) != held(b)


def test_a_value_that_two_layers_share_is_told_by_both() -> None:
    one, other = [1], [2]

    def three(last: list[int]) -> str:
        return fingerprint(nn.Sequential(Holder(one), Holder(other), Holder(last)), CPU)

    assert three(one) != three(other)


def test_a_cycle_of_attributes_ends() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    assert held(ring) == held(ring)


def test_it_follows_buffers_that_no_state_dict_holds() -> None:
    def module(value: float) -> nn.Module:
        found = nn.Identity()
        found.register_buffer("shift", torch.tensor(value), persistent=False)
        return found

    assert fingerprint(module(0.0), CPU) != fingerprint(module(5.0), CPU)


def test_it_follows_code(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {held(1.0)}
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[__name__], "FACTOR", -1.0)
        found.add(held(1.0))
    with monkeypatch.context() as patch:
        patch.setattr(Holder, "forward", lambda self, x: -x)
        found.add(held(1.0))
    with monkeypatch.context() as patch:
        patch.setattr("qbench_suite.engine.fingerprint.version_of", lambda name: "0")
        found.add(held(1.0))
    hooked = Holder()
    hooked.register_forward_hook(lambda module, inputs, output: -output)
    found |= {fingerprint(hooked, CPU), fingerprint(Holder(), CPU)}
    assert len(found) == 6


def test_pooling_of_timm_counts() -> None:
    timm = pytest.importorskip("timm")
    make = functools.partial(timm.create_model, "vit_tiny_patch16_224", fc_norm=False, depth=1)
    avg, other = make(global_pool="avg"), make(global_pool="max")
    other.load_state_dict(avg.state_dict())
    assert fingerprint(avg, CPU) != fingerprint(other, CPU)


def test_it_is_the_same_in_another_process() -> None:
    code = (
        "import torch, torchvision; from qbench_suite.engine.fingerprint import fingerprint;"
        "torch.manual_seed(0);"
        "print(fingerprint(torchvision.models.squeezenet1_1(), torch.device('cpu')))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
