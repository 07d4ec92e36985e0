"""What a user gets wrong: an exit code, no traceback, and a message that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Checkout

MISTAKES = {
    "model": ("--qbench-models=tyny", "Did you mean tiny"),
    "format": ("--qbench-formats=fp8_e4m33", "Did you mean fp8_e4m3"),
    "format variant": ("--qbench-formats=fp8_e4m3+stochastik", "+stochastic"),
    "mode": ("--qbench-modes=tenser", "Did you mean tensor"),
    "chunk of nothing": ("--qbench-modes=chunk0", "chunk"),
    "block of nothing": ("--qbench-modes=block0x4", "block"),
    "layer": ("--qbench-layers=7", "Known: 0, 1, 3"),
    "layer pattern": ("--qbench-layers=conv*", "Known: 0, 1, 3"),
    "device": ("--qbench-device=tpu9", "Use cpu"),
    "batch": ("--qbench-batch=0", "at least 1"),
    "batch word": ("--qbench-batch=many", "invalid int value"),
    "rounds": ("--qbench-rounds=0", "at least 1"),
    "cache": ("--qbench-cache-mb=0", "at least 1"),
    "role": ("--qbench-role=wait=int8-tensor", "weight, input, act, output"),
    "role without value": ("--qbench-role=weight", "weight=int4-chunk64"),
    "role format": ("--qbench-role=weight=int44-tensor", "Did you mean int4"),
    "role mode": ("--qbench-role=weight=int4-tenser", "Did you mean tensor"),
    "role without mode": ("--qbench-role=weight=int4", "weight=int4-chunk64"),
    "shape": ("--qbench-quantizer-shape=4096,4096", "4096x4096"),
    "empty shape": ("--qbench-quantizer-shape=0x4", "4096x4096"),
    "dataset": ("--qbench-data=digitz", "Did you mean digits"),
    "gates": ("--qbench-gates=no.csv", "--qbench-gates"),
    "misfit": ("--qbench-formats=bf16 --qbench-modes=chunk32", "Widen --qbench-formats"),
    "no model": ("--qbench-models=", "--qbench-models"),
    "no format": ("--qbench-formats=", "--qbench-formats"),
    "run name with slash": ("--qbench-run=a/../../b", "--qbench-run"),
}


@pytest.fixture(scope="module")
def shared(new_checkout: Callable[[], Checkout]) -> Checkout:
    return new_checkout()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_an_option_ends_pytest_with_a_remedy(shared: Checkout, mistake: str) -> None:
    options, remedy = MISTAKES[mistake]
    run = shared.measure(*options.split())
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in run.output
    assert "INTERNALERROR" not in run.output
    assert remedy in run.output
