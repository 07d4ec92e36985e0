"""NormKernel: what a plugin registers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from qbench_suite import NORM_OPERATIONS, KernelError, Manager, NormKernel, hookimpl

CPU = torch.device("cpu")
OPERATION = NORM_OPERATIONS["rms_norm"]


def test_a_kernel_is_named_after_its_operation_and_maker() -> None:
    kernel = NormKernel(provider="mine", operation=OPERATION, prepare=OPERATION.eager)
    assert kernel.name == "rms_norm:mine"
    assert not kernel.unavailable(CPU)
    assert not kernel.misfit((1024, 768), "float32")
    kernel.require(CPU)


def test_its_tolerance_is_that_of_the_operation_unless_it_says() -> None:
    kernel = NormKernel(provider="mine", operation=OPERATION, prepare=OPERATION.eager)
    assert kernel.tolerance("bfloat16") == OPERATION.tolerance_ulps["bfloat16"]
    own = NormKernel(
        provider="mine",
        operation=OPERATION,
        prepare=OPERATION.eager,
        tolerance_ulps={"bfloat16": 3.0},
    )
    assert own.tolerance("bfloat16") == 3.0


def test_where_it_cannot_run_the_reason_is_told() -> None:
    kernel = NormKernel(
        provider="mine",
        operation=OPERATION,
        prepare=OPERATION.eager,
        unavailable=lambda device: f"it is for a device of mine, not {device.type}",
    )
    with pytest.raises(KernelError) as caught:
        kernel.require(CPU)
    for word in ("rms_norm:mine", "it is for a device of mine, not cpu", "--qbench-norms"):
        assert word in str(caught.value)


def make(**fields: Any) -> NormKernel:
    declared: dict[str, Any] = {"operation": OPERATION, "prepare": OPERATION.eager}
    return NormKernel(provider="mine", **{**declared, **fields})


def test_dtypes_that_its_tolerance_does_not_name_have_that_of_the_operation() -> None:
    bare = dataclasses.replace(OPERATION, tolerance_ulps={"float32": 9.0})
    kernel = make(operation=bare, tolerance_ulps={"bfloat16": 3.0})
    assert [kernel.tolerance(dtype) for dtype in ("bfloat16", "float32")] == [3.0, 9.0]
    # What neither names: that of the direction; integers have none to have.
    assert kernel.tolerance("float16") == 1.0
    backward = dataclasses.replace(bare, direction="backward")
    assert make(operation=backward).tolerance("float16") == 2.0
    assert kernel.tolerance("int32") == kernel.tolerance("bool") == 0.0
    with pytest.raises(KernelError, match=r"float64 neither rms_norm:mine .*tolerance_ulps"):
        kernel.tolerance("float64")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dtypes": ("float64",)}, r"dtypes .*rms_norm:mine .*float32, .*got \('float64',\)"),
        ({"dtypes": "float32"}, "dtypes .*is a tuple .*got 'float32'"),
        ({"dtypes": ()}, "at least one of float32"),
        ({"dtypes": (torch.float32,)}, r"dtypes .*got \(torch.float32,\)"),
        ({"dtypes": None}, "dtypes .*got None"),
        ({"affine": ("bogus",)}, "affine .*weight, one_plus_weight, none; got .*bogus"),
        ({"affine": ("weight_bias",)}, "affine .*got .*weight_bias"),
        ({"affine": "weight"}, "affine .*is a tuple"),
        ({"tolerance_ulps": {"fp16": 3.0}}, "tolerance_ulps .*'bfloat16', .*'fp16'"),
        ({"tolerance_ulps": {"float16": -1.0}}, "at least 0"),
        ({"tolerance_ulps": {"float16": float("nan")}}, "at least 0"),
        ({"tolerance_ulps": 4.0}, "is a mapping .*got 4.0"),
        ({"operation": "rms_norm"}, "given 'rms_norm'. Pass one, as NORM_OPERATIONS"),
    ],
)
def test_what_would_give_no_case_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(KernelError, match=words):
        make(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"outputs": "y"}, "outputs of the norm operation rms_norm is a tuple .*got 'y'"),
        ({"shapes": "1024x768"}, "shapes .*got '1024x768'"),
        ({"shapes": ()}, "shapes .*at least one"),
        ({"large_shapes": "1024x768"}, "large_shapes .*got"),
        ({"affine": ("bogus",)}, "affine .*weight_bias, .*got .*bogus"),
        ({"affine": ()}, "affine .*at least one"),
        ({"fused": "residual"}, "fused .*got"),
        ({"tolerance_ulps": {"half": "1"}}, "tolerance_ulps .*got"),
    ],
)
def test_so_it_is_of_an_operation(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(KernelError, match=words):
        dataclasses.replace(OPERATION, **fields)


def test_a_plugin_that_misdeclares_is_a_problem_told() -> None:
    class Misdeclared:
        @hookimpl
        def qbench_register_norm_kernels(self, register: Any) -> None:
            register(make(dtypes=("float64",)))

    manager = Manager()
    manager.register(Misdeclared())
    (problem,) = manager.problems
    assert "float64" in problem.reason
