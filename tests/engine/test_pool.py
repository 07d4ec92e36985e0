"""ModelPool: one build a model, evicted by bytes, errors that name the plugin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from qbench_suite import Manager, ModelError, NameNotFoundError
from qbench_suite.engine.pool import ModelPool

MakeManager = Callable[..., Manager]
CPU = torch.device("cpu")


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 5, bias=False))  # 960 bytes


@pytest.mark.parametrize("order", ["abc", "cba", "abacbcaab"])
def test_each_model_is_built_once_whatever_the_order(make_manager: MakeManager, order: str) -> None:
    pool = ModelPool(make_manager(dict.fromkeys("abc", linear)), 1 << 20, CPU)
    models = [pool.get(name) for name in order]
    assert set(pool.loads.values()) == {1}
    assert len({id(model) for model in models}) == len(set(order))


def test_models_beyond_the_bound_are_let_go(make_manager: MakeManager) -> None:
    pool = ModelPool(make_manager(dict.fromkeys("abc", linear)), 2000, CPU)
    for name in "abcb":
        pool.get(name)
    assert pool.loads == {"a": 1, "b": 1, "c": 1}
    pool.get("a")
    assert pool.loads["a"] == 2


def test_one_model_is_held_however_large(make_manager: MakeManager) -> None:
    pool = ModelPool(make_manager({"a": linear}), 1, CPU)
    assert pool.get("a") is pool.get("a")


def test_model_comes_in_eval_mode_without_gradients(make_manager: MakeManager) -> None:
    pool = ModelPool(make_manager({"a": lambda: linear().train()}), 1 << 20, CPU)
    module = pool.get("a").module
    assert not module.training
    assert not any(p.requires_grad for p in module.parameters())


def raises() -> nn.Module:
    raise ValueError("no weights")


@pytest.mark.parametrize(
    ("build", "reason"), [(raises, "ValueError: no weights"), (lambda: None, "AttributeError")]
)
def test_model_that_cannot_be_built_names_its_plugin(
    make_manager: MakeManager, build: Callable[[], Any], reason: str
) -> None:
    pool = ModelPool(make_manager({"bad": build, "good": linear}), 1 << 20, CPU)
    with pytest.raises(ModelError, match=reason) as caught:
        pool.get("bad")
    assert "'bad' of guest (local)" in str(caught.value)
    assert pool.get("good").layers


def test_unknown_model_is_answered_with_near_ones(make_manager: MakeManager) -> None:
    pool = ModelPool(make_manager({"resnet": linear}), 1 << 20, CPU)
    with pytest.raises(NameNotFoundError, match="resnet"):
        pool.get("resnets")
