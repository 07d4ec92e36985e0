"""NormKernel: what a plugin registers."""

from __future__ import annotations

import pytest
import torch

from qbench_suite import NORM_OPERATIONS, KernelError, NormKernel

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
