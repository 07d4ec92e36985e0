"""Doctor: what is found, and what counts as a problem."""

from __future__ import annotations

import types
from collections.abc import Callable

import pytest

from qbench_suite import LinearEntry, Manager, hookimpl
from qbench_suite.doctor import examine
from qbench_suite.registry import Owner


def test_machine_without_problems_has_none() -> None:
    findings = {finding.what: finding for finding in examine(Manager())}
    assert not [f for f in findings.values() if f.grade == "problem"]
    assert findings["torch"].grade == "ok"
    assert {"python", "cpu", "C++ compiler", "pandas"} <= findings.keys()


def test_plugins_are_listed_with_their_hooks_and_ills() -> None:
    good, bad = types.ModuleType("good"), types.ModuleType("bad")

    @hookimpl
    def qbench_register_formats(register: Callable[[object], None]) -> None:
        raise RuntimeError("no table")

    @hookimpl
    def qbench_machine_info(info: dict[str, object]) -> None: ...

    good.qbench_machine_info = qbench_machine_info  # type: ignore[attr-defined]
    bad.qbench_register_formats = qbench_register_formats  # type: ignore[attr-defined]
    manager = Manager()
    manager.register(good)
    manager.register(bad)
    findings = {finding.what: finding for finding in examine(manager)}
    assert findings["plugin good (local)"].state == "qbench_machine_info"
    problem = findings["plugin bad (local)"]
    assert problem.grade == "problem"
    assert "RuntimeError: no table" in problem.state
    assert "--qbench-disable-plugin bad" in problem.state


def test_machine_without_a_compiler_is_told_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    (finding,) = [f for f in examine(Manager()) if f.what == "C++ compiler"]
    assert finding.grade == "note"
    assert "install g++" in finding.state


def test_absent_library_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qbench_suite.doctor._LIBRARIES", ("no-such-library",))
    (finding,) = [f for f in examine(Manager()) if f.what == "no-such-library"]
    assert (finding.grade, finding.state) == ("note", "absent; pip install no-such-library")


def test_default_layers_that_are_missing_are_notes() -> None:
    manager = Manager()
    for name, default, reason in (("a", True, "no a"), ("b", False, "no b"), ("c", True, "")):
        entry = LinearEntry(
            name=name,
            build=lambda linear: linear,
            format="int8",
            default=default,
            unavailable=lambda _, reason=reason: reason,
        )
        manager.linears.register(entry, Owner("test"))
    found = {f.what: f for f in examine(manager) if f.what.startswith("linear ")}
    assert {what: (f.grade, f.state) for what, f in found.items()} == {"linear a": ("note", "no a")}
