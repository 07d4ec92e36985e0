"""The graph audits: the exported graph and the one that torch.compile makes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from qbench_suite import IntegerAudit, audit_compiled, audit_exported

X = torch.tensor([[1, -2, 3, 4], [5, 6, -7, 8]], dtype=torch.int8)
Audit = Callable[..., IntegerAudit]
BOTH = pytest.mark.parametrize("audit", [audit_exported, audit_compiled])


@torch.library.custom_op("qbench_graph_test::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x + x


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = twice(x)
        return found


class Branches(nn.Module):
    """A float in one branch of a condition."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.cond(
            x.sum() > 0, lambda x: x + x, lambda x: (x * 0.5).to(torch.int8), (x,)
        )
        return found


@BOTH
def test_integers_pass(audit: Audit, codes: nn.Module) -> None:
    found = audit(codes, X)
    assert found.passed
    assert found.looked_at >= 6
    assert not found.opaque


def test_a_float_buffer_that_nothing_reads_is_listed(codes: nn.Module) -> None:
    assert audit_exported(codes, X).notes == ("float, and read by no operation: out_scale",)


@BOTH
def test_a_hidden_float_is_found(audit: Audit, hiding: nn.Module) -> None:
    found = audit(hiding, X)
    assert not found.passed
    # What Python computes of an element may not be traced at all.
    if not (type(hiding.hides).__name__ == "PythonFloat" and found.not_run):
        assert found.floats >= 1
        assert all(not use.where.startswith("codes") for use in found.findings)
        assert any(use.where == "hides" for use in found.findings)


def test_a_buffer_that_is_read_is_named() -> None:
    class Scaled(nn.Module):
        scale: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.scale).to(torch.int8)

    assert "scale" in {use.what for use in audit_exported(Scaled(), X).findings}


@BOTH
def test_branches_of_a_condition_are_looked_at(audit: Audit) -> None:
    assert audit(Branches(), X).floats >= 1


@BOTH
def test_a_custom_operation_is_named(audit: Audit) -> None:
    found = audit(Twice(), X)
    assert found.passed
    assert found.opaque == {"qbench_graph_test.twice.default": 1}


@BOTH
def test_a_module_that_cannot_be_traced_was_not_audited(audit: Audit) -> None:
    class Printing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.max().item() > 3 else x

    found = audit(Printing(), X)
    assert found.not_run
    assert not found.passed
    assert "not run" in found.summary


def test_one_forward_can_be_traced_many_times_and_compiled_after() -> None:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    compiled: list[object] = []

    def backend(graph: fx.GraphModule, _: object) -> fx.GraphModule:
        compiled.append(graph)
        return graph

    for _ in range(torch._dynamo.config.recompile_limit + 2):
        assert audit_compiled(Module(), X).passed
    torch.compile(Module(), backend=backend)(X)
    assert len(compiled) == 1
