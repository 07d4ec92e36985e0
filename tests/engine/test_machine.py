"""Machine facts: plain JSON, whatever plugins add."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qbench_suite import Manager, hookimpl
from qbench_suite.engine import Settings
from qbench_suite.engine.machine import machine_info, version_of
from qbench_suite.results.row import RunColumns
from qbench_suite.results.schema import columns_of

MakeManager = Callable[..., Manager]


def with_facts(manager: Manager, hook: Callable[..., None]) -> Manager:
    module = types.ModuleType("facts")
    module.qbench_machine_info = hookimpl(specname="qbench_machine_info")(hook)  # type: ignore[attr-defined]
    manager.register(module)
    return manager


def test_facts_fill_the_columns_of_a_run(make_manager: MakeManager) -> None:
    info = machine_info(make_manager(), Settings(seed=3))
    assert {f.name for f in columns_of(RunColumns)} - {"run", "arguments"} <= info.keys()
    assert (info["seed"], info["batch"], info["device"]) == (3, 16, "cpu")
    assert info["plugins"] == "guest (local); world (local)"
    assert info["machine"]


def test_plugins_add_facts_that_json_holds(make_manager: MakeManager) -> None:
    def hook(info: dict[str, Any]) -> None:
        info.update(card="H200", path=Path("x"), heat=math.nan, count=3)

    info = machine_info(with_facts(make_manager(), hook), Settings())
    assert (info["card"], info["path"], info["heat"], info["count"]) == ("H200", "x", "nan", 3)
    json.dumps(info, allow_nan=False)


def test_plugin_that_raises_costs_its_facts_only(make_manager: MakeManager) -> None:
    def hook(info: dict[str, Any]) -> None:
        raise RuntimeError("no such counter")

    manager = with_facts(make_manager(), hook)
    assert machine_info(manager, Settings())["torch_version"]
    assert "no such counter" in manager.problems[0].reason


def test_absent_library_has_no_version() -> None:
    assert version_of("no-such-library") == ""
    assert version_of("torch")
