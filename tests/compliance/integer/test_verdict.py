"""The verdict: what follows from all audits, and what a library that computes in floats does to it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qbench_suite import IntegerBlock, NameNotFoundError, audit_integer
from qbench_suite.compliance.integer import dispatch

Library = Callable[[str], Path]
X = torch.tensor([[1, -2, 3, 4], [5, 6, -7, 8]], dtype=torch.int8)
SOURCE = """
#include <cstdint>
extern "C" void halve(const int8_t* x, int8_t* y, long n) {
  for (long i = 0; i < n; ++i) y[i] = int8_t(EXPRESSION);
}
"""
_LIBRARIES: dict[str, ctypes.CDLL] = {}


@torch.library.custom_op("qbench_verdict_test::halve", mutates_args=())
def halve(x: Tensor) -> Tensor:
    """The compiled ``halve`` that a test chose."""
    y, x = torch.empty_like(x), x.contiguous()
    pointers = ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(y.data_ptr())
    _LIBRARIES["halve"].halve(*pointers, ctypes.c_long(x.numel()))
    return y


@halve.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@pytest.fixture
def library(build: Callable[..., Path]) -> Library:
    """``library(expression)``: the compiled ``halve`` of that expression, which runs from then on."""

    def library(expression: str) -> Path:
        text, name = SOURCE.replace("EXPRESSION", expression), f"halve{abs(hash(expression))}"
        target = build(text, name=name)
        _LIBRARIES["halve"] = ctypes.CDLL(str(target))
        return target

    return library


class Halving(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = halve(x)
        return found


class Block(IntegerBlock):
    """A block that halves in a library of its own."""

    float_state = ("scale",)

    def __init__(self, *libraries: Path) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.5))
        self._libraries = libraries

    def forward(self, codes: Tensor) -> Tensor:
        found: Tensor = halve(codes)
        return found

    def quantize_input(self, x: Tensor) -> Tensor:
        return x.to(torch.int8)

    def dequantize_output(self, codes: Tensor) -> Tensor:
        return codes.float()

    def stages(self, codes: Tensor) -> Mapping[str, Tensor]:
        return {"halve": self(codes).float()}

    def float_stages(self, x: Tensor) -> Mapping[str, Tensor]:
        return {"halve": x / 2}

    def native_libraries(self) -> tuple[Path, ...]:
        return self._libraries


def test_integers_are_proven_by_every_audit(codes: nn.Module) -> None:
    verdict = audit_integer(codes, X, declared=["out_scale"])
    assert verdict.integer_only is True
    assert [audit.name for audit in verdict.audits] == [
        "dispatch",
        "exported",
        "compiled",
        "state",
    ]
    assert str(verdict).startswith("integer only\ndispatch: 0 floats in 6 operations")


def test_a_hidden_float_refutes_it(hiding: nn.Module) -> None:
    verdict = audit_integer(hiding, X, declared=["codes.out_scale"])
    assert verdict.integer_only is False
    assert verdict.floats >= 1
    assert str(verdict).startswith("not integer only: ")


def test_an_undeclared_float_refutes_it(codes: nn.Module) -> None:
    assert audit_integer(codes, X).integer_only is False


def test_audits_that_are_not_asked_for_are_not_missed(codes: nn.Module) -> None:
    verdict = audit_integer(codes, X, audits=["dispatch"])
    assert verdict.integer_only is True
    assert len(verdict.audits) == 1


def test_a_custom_operation_proves_nothing_without_its_library(library: Library) -> None:
    file = library("x[i] >> 1")
    verdict = audit_integer(Halving(), X)
    assert verdict.integer_only is None
    assert verdict.unseen == (
        "native code is reached by Tensor.data_ptr, and no library was given",
    )
    assert audit_integer(Halving(), X, libraries=[file]).integer_only is True


def test_the_library_of_a_block_proves_nothing_beside_it(library: Library) -> None:
    file = library("x[i] >> 1")
    block, beside = Block(file), nn.Sequential(Block(file), Halving())
    verdict = audit_integer(beside, X)
    assert verdict.integer_only is None
    assert verdict.unseen == (
        "native code is reached by Tensor.data_ptr in 1, and no library was given",
    )
    assert audit_integer(beside, X, libraries=[file]).integer_only is True
    assert audit_integer(nn.Sequential(block, block), X).integer_only is True
    # A name that begins like the block's is another module.
    named = nn.ModuleDict({"a": block, "ab": Halving()})
    named.forward = lambda x: named["ab"](named["a"](x))  # type: ignore[method-assign]
    assert audit_integer(named, X, audits=["dispatch", "disassembly"]).integer_only is None


def test_a_compiled_operation_beside_a_block_is_told_from_one_within(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "python_kernel", lambda *_: None)
    block = Block(library("x[i] >> 1"))
    assert audit_integer(nn.Sequential(nn.Sequential(block)), X).integer_only is True
    verdict = audit_integer(nn.Sequential(block, Halving()), X)
    assert verdict.unseen == (
        "native code is reached by qbench_verdict_test.halve.default in 1, and no library was given",
    )


def test_a_library_that_uses_another_proves_nothing_without_it(
    build: Callable[..., Path], library: Library
) -> None:
    own, other = library("x[i] >> 1"), "extern long elsewhere(long);"
    calls = build(f'extern "C" {{ {other} long f(long x) {{ return elsewhere(x) + 1; }} }}')
    verdict = audit_integer(Halving(), X, libraries=[own, calls])
    assert verdict.integer_only is None
    assert verdict.unseen == ("library.so uses elsewhere of libraries that were not given",)
    there = build('extern "C" long elsewhere(long x) { return x * 3; }', name="there")
    assert audit_integer(Halving(), X, libraries=[own, calls, there]).integer_only is True


def test_no_audit_is_no_proof(codes: nn.Module) -> None:
    verdict = audit_integer(codes, X, audits=())
    assert verdict.integer_only is None
    assert verdict.unseen == ("no audit was made",)
    assert audit_integer(codes, X, audits=["disassembly"]).integer_only is None


def test_the_name_of_no_audit_is_an_error(codes: nn.Module) -> None:
    with pytest.raises(NameNotFoundError, match=r"'dispach' is none\. Did you mean dispatch\?"):
        audit_integer(codes, X, audits=["state", "dispach"])


def test_a_compiled_operation_proves_nothing_without_its_library(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "python_kernel", lambda *_: None)
    file = library("x[i] >> 1")
    verdict = audit_integer(Halving(), X)
    assert verdict.integer_only is None
    assert "reached by qbench_verdict_test.halve.default, and no library" in str(verdict)
    assert audit_integer(Halving(), X, libraries=[file]).integer_only is True


def test_a_float_kernel_is_found_in_its_library(library: Library) -> None:
    file = library("x[i] * 0.5f")
    verdict = audit_integer(Halving(), X, libraries=[file])
    assert verdict.integer_only is False
    assert {use.where.split()[0] for a in verdict.audits for use in a.findings} == {"halve"}
    assert all(audit.passed for audit in verdict.audits if audit.name != "disassembly")


def test_a_library_that_is_not_there_leaves_it_open(library: Library, tmp_path: Path) -> None:
    library("x[i] >> 1")
    verdict = audit_integer(Halving(), X, libraries=[tmp_path / "absent.so"])
    assert verdict.integer_only is None
    assert "absent.so: not run, there is no such file" in str(verdict)


def test_elements_that_leave_torch_leave_it_open() -> None:
    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + int(x.max())

    verdict = audit_integer(Counting(), X, audits=["dispatch"])
    assert verdict.integer_only is None
    (reason,) = verdict.unseen
    assert reason.startswith("elements leave torch by Tensor.__int__")


def test_a_block_says_which_library_and_which_floats_are_its_own(library: Library) -> None:
    inner = Block(library("x[i] >> 1"))
    verdict = audit_integer(inner, X)
    assert verdict.integer_only is True, str(verdict)
    assert verdict.audits[-1].file.startswith("halve")
    # Within another module too, under the names that it has there.
    assert audit_integer(nn.Sequential(inner), X).integer_only is True
    broken = Block(library("x[i] / 2.0"))
    assert audit_integer(broken, X).integer_only is False
