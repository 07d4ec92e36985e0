"""The dispatch audit: finds every float while it runs, says where, and owns up to what it cannot see."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.dlpack import to_dlpack

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


_CHOSEN: dict[str, Callable[[Tensor], Tensor]] = {}
_CUDA = "Tensor.__cuda_array_interface__"


@torch.library.custom_op("qbench_dispatch_test::chosen", mutates_args=())
def chosen(x: Tensor) -> Tensor:
    """The function that a test chose."""
    return _CHOSEN["function"](x).clone()


def in_a_thread(x: Tensor) -> Tensor:
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append((x * 0.5).to(torch.int8)))
    thread.start()
    thread.join()
    return found[0]


def in_a_pool(x: Tensor) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: (x * 0.5).to(torch.int8)).result()


def unseen(x: Tensor) -> Tensor:
    with _disable_current_modes():
        return (x * 0.5).to(torch.int8)


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
        (lambda x: x.clone().apply_(lambda code: code // 2), "Tensor.apply_"),
        (lambda x: x.clone().map_(x, lambda a, b: a + b), "Tensor.map_"),
        (lambda x: x + int(f"{x[0, 0]}"), "Tensor.__format__"),
        (lambda x: x + len(repr(x)), "Tensor.__repr__"),
        pytest.param(lambda x: x + len(str(x)), "Tensor.__repr__", id="str"),
        (lambda x: x + 1 if x[0, 0] == 1 else x, "Tensor.__bool__"),
        (lambda x: x + range(9)[x[0, 0]], "Tensor.__index__"),
        (lambda x: x + len(pickle.dumps(x)), "Tensor.untyped_storage"),
        (lambda x: x + hasattr(x, "__cuda_array_interface__"), _CUDA),
        (lambda x: torch.from_dlpack(to_dlpack(x)), "torch.utils.dlpack.to_dlpack"),
        (lambda x: x + torch.equal(x, x), "aten.equal.default"),
        (lambda x: x + x.nonzero().shape[0], "aten.nonzero.default"),
        (lambda x: x + x[x > 0].shape[0], "aten.index.Tensor"),
        (lambda x: in_a_thread(x), "a new thread"),
        pytest.param(lambda x: in_a_pool(x), "a new thread", id="pool"),
    ],
)
def test_what_is_not_seen_is_named(function: Callable[[Tensor], Tensor], name: str) -> None:
    found = audit_dispatch(Calling(function), X)
    assert found.passed, "nothing float was seen"
    assert found.opaque[name] == 1
    assert f"opaque  {name}, 1 times" in str(found)
    assert found.places[name] == {""}
    # Within the kernel of an operator too.
    _CHOSEN["function"] = function
    within = audit_dispatch(nn.Sequential(Calling(lambda x: chosen(x))), X)
    assert within.entered == {"qbench_dispatch_test.chosen.default"}
    assert within.opaque[name] == 1
    assert within.places[name] == {"0"}


def test_what_stops_the_audit_is_named() -> None:
    found = audit_dispatch(Calling(lambda x: unseen(x)), X)
    assert set(found.opaque) == {"torch.utils._python_dispatch._disable_current_modes"}


def test_who_profiled_before_goes_on() -> None:
    def profile(*_: object) -> None: ...

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        audit_dispatch(nn.Identity(), X)
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(before)


def test_a_table_is_read_without_a_size_that_elements_decide() -> None:
    found = audit_dispatch(Calling(lambda x: X.flatten()[x.long() & 7]), X)
    assert found.passed
    assert not found.opaque


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
