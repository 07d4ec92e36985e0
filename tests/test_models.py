"""What model and dataset plugins register: facts, and defaults that hold for any of them."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from torch import nn

from qbench_suite import DatasetEntry, ModelEntry


def test_two_facts_make_a_model() -> None:
    entry = ModelEntry(name="tiny", build=nn.Identity)
    assert (entry.dataset, entry.default, entry.description) == ("random", False, "")
    assert (entry.mean, entry.std) == ((0.0,), (1.0,)), "pixels as they are"


def test_entries_do_not_change() -> None:
    entry = ModelEntry(name="tiny", build=nn.Identity)
    with pytest.raises(FrozenInstanceError):
        entry.name = "other"  # type: ignore[misc]
    dataset = DatasetEntry(name="none", load=lambda split: [], num_classes=0)  # type: ignore[arg-type,return-value]
    with pytest.raises(FrozenInstanceError):
        dataset.num_classes = 1  # type: ignore[misc]


def test_facts_are_given_by_name() -> None:
    with pytest.raises(TypeError):
        ModelEntry("tiny", nn.Identity)  # type: ignore[call-arg]
