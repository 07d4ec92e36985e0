"""Hooks: each is documented, named alike, and used by a plugin that ships."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from qbench_suite import hookspecs

HOOKS = {
    name: value
    for name, value in vars(hookspecs).items()
    if inspect.isfunction(value) and value.__module__ == hookspecs.__name__
}
PLUGINS = Path(__file__).parent.parent / "plugins"


@pytest.mark.parametrize("name", HOOKS)
def test_hook_has_the_prefix_and_the_marker(name: str) -> None:
    assert name.startswith("qbench_")
    assert hasattr(HOOKS[name], "qbench_spec")


@pytest.mark.parametrize("name", HOOKS)
def test_hook_is_documented_in_one_sentence(name: str) -> None:
    text = str(inspect.getdoc(HOOKS[name]))
    assert text.endswith(".")
    assert len(text.splitlines()) == 1
    assert text.count(". ") == 0


@pytest.mark.parametrize("name", HOOKS)
def test_hook_is_annotated(name: str) -> None:
    signature = inspect.signature(HOOKS[name])
    assert signature.return_annotation == "None"
    assert all(p.annotation is not p.empty for p in signature.parameters.values())


@pytest.mark.parametrize("name", HOOKS)
def test_hook_has_a_user_that_ships(name: str) -> None:
    users = [p for p in PLUGINS.rglob("*.py") if f"def {name}(" in p.read_text(encoding="utf-8")]
    assert users, f"no plugin implements {name}"
