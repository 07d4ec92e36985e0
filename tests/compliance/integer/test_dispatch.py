"""The dispatch audit: finds every float while it runs, says where, and owns up to what it cannot see."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench_suite import ConversionError, audit_dispatch
from qbench_suite.compliance.integer import dispatch
from qbench_suite.compliance.integer.kernels import python_kernel

X = torch.tensor([[1, -2, 3, 4], [5, 6, -7, 8]], dtype=torch.int8)


@torch.library.custom_op("qbench_dispatch_test::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x + x


@torch.library.custom_op("qbench_dispatch_test::halved", mutates_args=())
def halved(x: Tensor) -> Tensor:
    return (x // 2.0).to(torch.int8)


@torch.library.custom_op("qbench_dispatch_test::by_pointer", mutates_args=())
def by_pointer(x: Tensor) -> Tensor:
    assert x.data_ptr()
    return x + 1


class Calling(nn.Module):
    """A module that calls one function."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[operator,no-any-return]


def test_integers_pass_and_every_operation_is_counted(codes: nn.Module) -> None:
    found = audit_dispatch(codes, X)
    assert found.passed
    assert (found.floats, dict(found.opaque)) == (0, {})
    # Two casts, a product, an addition, a shift, a clamp and a cast.
    assert found.looked_at == 6
    assert "aten.clamp.default 1" in found.notes[0]


def test_a_hidden_float_is_found_where_it_is(hiding: nn.Module) -> None:
    found = audit_dispatch(hiding, X)
    assert not found.passed
    assert found.floats >= 1
    assert {use.where for use in found.findings} <= {"hides", ""}
    assert not any(use.where.startswith("codes") for use in found.findings)


def test_a_python_float_counts_where_every_tensor_is_an_integer(
    hidings: Mapping[str, nn.Module],
) -> None:
    (use,) = audit_dispatch(hidings["IntegerClampByFloats"], X).findings
    assert (use.what, use.why) == ("aten.fill_.Scalar", "takes the Python float 2.0")
    assert (use.where, use.count) == ("hides", 1)


def test_a_float_input_and_a_float_output_are_findings_without_an_operation() -> None:
    found = audit_dispatch(nn.Identity(), X.half())
    assert [(use.what, use.why) for use in found.findings] == [
        ("input 0", "takes a float16 tensor"),
        ("output", "gives a float16 tensor"),
    ]


def test_uses_of_one_kind_are_counted_together() -> None:
    def thrice(x: Tensor) -> Tensor:
        for _ in range(3):
            x.float()
        return x

    (use,) = audit_dispatch(Calling(thrice), X).findings
    assert use.count == 3
    assert "3 times" in str(use)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: x + x.max().item(), "Tensor.item"),
        (lambda x: x + sum(x.flatten().tolist()), "Tensor.tolist"),
        (lambda x: torch.from_numpy(x.numpy() * 2), "Tensor.numpy"),
        (lambda x: torch.from_numpy(np.asarray(x)), "Tensor.__array__"),
        (lambda x: x + int(x[0, 0]), "Tensor.__int__"),
        (lambda x: (x.data_ptr(), x)[1], "Tensor.data_ptr"),
    ],
)
def test_what_is_not_seen_is_named(function: object, name: str) -> None:
    found = audit_dispatch(Calling(function), X)
    assert found.passed, "nothing float was seen"
    assert found.opaque[name] == 1
    assert f"opaque  {name}, 1 times" in str(found)


def test_an_operation_in_python_is_looked_into() -> None:
    found = audit_dispatch(Calling(lambda x: twice(x)), X)
    assert found.passed
    assert not found.opaque
    assert found.entered == {"qbench_dispatch_test.twice.default"}
    assert found.looked_at == 2, "the operation, and the addition within"
    within = audit_dispatch(Calling(lambda x: halved(x)), X)
    assert any("takes the Python float 2.0" in use.why for use in within.findings)
    left = audit_dispatch(Calling(lambda x: by_pointer(x)), X)
    assert left.opaque == {"Tensor.data_ptr": 1}


def test_an_operation_that_is_compiled_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "python_kernel", lambda *_: None)
    found = audit_dispatch(Calling(lambda x: halved(x)), X)
    assert found.passed
    assert found.opaque == {"qbench_dispatch_test.halved.default": 1}


def test_compiled_kernels_are_told_from_python_ones() -> None:
    assert python_kernel(torch.ops.qbench_dispatch_test.twice.default, (X,)) is not None
    assert python_kernel(torch.ops.aten.add.Tensor, (X, X)) is None
    assert python_kernel(torch.ops.qbench_dispatch_test.twice.default, ()) is None


def test_a_custom_operation_shows_its_float_arguments() -> None:
    found = audit_dispatch(Calling(lambda x: twice(x.double()).to(torch.int8)), X)
    assert "qbench_dispatch_test.twice.default" in {use.what for use in found.findings}


def test_the_module_is_left_as_it_was(codes: nn.Module) -> None:
    outer = nn.Sequential(codes, nn.Identity())
    audit_dispatch(outer, X)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in outer.modules())
    with pytest.raises(ConversionError):
        audit_dispatch(outer, "no tensor")
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in outer.modules())


def test_a_module_that_does_not_run_says_so(codes: nn.Module) -> None:
    with pytest.raises(ConversionError, match=r"runs on its inputs; Codes raised .*Pass inputs of"):
        audit_dispatch(codes, torch.zeros(3, 5, dtype=torch.int8))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantized_tensors_are_no_integers() -> None:
    def through(x: Tensor) -> Tensor:
        return torch._empty_affine_quantized([2], scale=0.5, zero_point=0, dtype=torch.qint8)

    found = audit_dispatch(Calling(through), X)
    assert any("qint8" in use.why for use in found.findings)
