"""Doctor: what is found, and what counts as a problem."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path

import pytest

from qbench_suite import NORM_OPERATIONS, KernelError, LinearEntry, Manager, NormKernel, hookimpl
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


def test_cuda_kernels_are_a_note_without_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise KernelError("NVRTC is missing; install it.")

    monkeypatch.setattr("qbench_suite.gpu.nvrtc.version", missing)
    (finding,) = [f for f in examine(Manager()) if f.what == "CUDA kernels"]
    assert (finding.grade, finding.state) == ("note", "NVRTC is missing; install it.")


@pytest.mark.parametrize(
    ("headers", "device", "grade", "state"),
    [
        (True, True, "ok", "NVRTC 13.2 compiles them"),
        (True, False, "note", "NVRTC 13.2 compiles them; no device runs them"),
        (False, True, "note", "pip install nvidia-cuda-runtime"),
    ],
)
def test_cuda_kernels_need_headers_and_a_device(
    monkeypatch: pytest.MonkeyPatch, headers: bool, device: bool, grade: str, state: str
) -> None:
    monkeypatch.setattr("qbench_suite.gpu.nvrtc.version", lambda: "13.2")
    monkeypatch.setattr(
        "qbench_suite.gpu.toolkit.headers", lambda: Path("include") if headers else None
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: device)
    (finding,) = [f for f in examine(Manager()) if f.what == "CUDA kernels"]
    assert finding.grade == grade
    assert state in finding.state


def test_default_norm_kernels_that_are_missing_are_a_note_a_provider() -> None:
    manager = Manager()
    for name in ("rms_norm", "layer_norm"):
        operation = NORM_OPERATIONS[name]
        for provider, default, reason in (
            ("a", True, "no a"),
            ("b", False, "no b"),
            ("c", True, ""),
        ):
            kernel = NormKernel(
                provider=provider,
                operation=operation,
                prepare=operation.eager,
                default=default,
                unavailable=lambda _, reason=reason: reason,
            )
            manager.norm_kernels.register(kernel, Owner("test"))
    found = [(f.what, f.state) for f in examine(manager) if f.what.startswith("norm ")]
    assert found == [("norm kernels of a", "no a")]
