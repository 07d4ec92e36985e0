"""Each kernel that the package registers computes its operation, in every dtype and affine option."""

from __future__ import annotations

import pytest
import torch

from qbench_norms_cuda.kernels import KERNELS
from qbench_suite import (
    NORM_OPERATIONS,
    KernelError,
    NormKernel,
    NormProblem,
    default_manager,
    ulp_errors,
)

#: Small shapes by the operation's layout and rank: rows that end within a vector of 16 bytes.
SHAPES = {
    ("rows", 2): (5, 300),
    ("rows", 3): (2, 3, 300),
    ("rows", 4): (1, 2, 9, 64),
    ("nchw", 4): (2, 8, 5, 7),
    ("nhwc", 4): (2, 8, 5, 7),
}
FLOATS = [kernel for kernel in KERNELS if kernel.operation.quantized is None]
QUANTIZED = [kernel for kernel in KERNELS if kernel.operation.quantized is not None]


def problems(kernel: NormKernel, dtype: torch.dtype, device: torch.device) -> list[NormProblem]:
    """One for each affine option of the operation."""
    shape = SHAPES[kernel.operation.layout, kernel.operation.rank]
    options = kernel.affine or kernel.operation.affine
    return [NormProblem(shape, dtype, option, seed=3, device=device) for option in options]


def test_every_operation_of_the_suite_has_a_kernel() -> None:
    manager = default_manager()
    assert {kernel.operation.name for kernel in KERNELS} == set(NORM_OPERATIONS)
    registered = {k.name for k in manager.norm_kernels if k.provider == "cuda"}
    assert registered == {f"{name}:cuda" for name in NORM_OPERATIONS}


def test_a_kernel_says_why_it_cannot_run_on_the_cpu() -> None:
    for kernel in KERNELS:
        assert "emulating(SM_90)" in kernel.unavailable(torch.device("cpu"))
    with pytest.raises(KernelError, match="runs where its device"):
        KERNELS[0].require(torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kernel", FLOATS, ids=[kernel.name for kernel in FLOATS])
def test_outputs_are_within_the_tolerance_of_the_reference(
    kernel: NormKernel, dtype: torch.dtype, device: torch.device
) -> None:
    assert kernel.unavailable(device) == ""
    for problem in problems(kernel, dtype, device):
        inputs = kernel.operation.inputs(problem)
        expected = kernel.operation.exact(inputs)
        found = kernel.prepare(inputs)()
        eager = kernel.operation.eager(inputs)()
        assert len(found) == len(eager)
        for name, y, r, own in zip(kernel.operation.outputs, found, expected, eager, strict=False):
            what = f"{name}, {problem.affine}"
            assert (y.shape, y.dtype) == (own.shape, own.dtype), what
            assert y.device == own.device
            errors = ulp_errors(y, r)
            assert errors.nonfinite == 0, what
            assert errors.max_ulp <= kernel.tolerance(str(y.dtype).removeprefix("torch.")), what


@pytest.mark.parametrize("kernel", QUANTIZED, ids=[kernel.name for kernel in QUANTIZED])
def test_codes_and_scales_are_those_of_the_rounded_norm(
    kernel: NormKernel, device: torch.device
) -> None:
    for problem in problems(kernel, torch.bfloat16, device)[:2]:
        inputs = kernel.operation.inputs(problem)
        found, expected = kernel.prepare(inputs)(), kernel.operation.exact(inputs)
        codes, scales = found[:2]
        assert codes.dtype == expected[0].dtype
        assert codes.shape == expected[0].shape
        assert scales.shape == expected[1].shape
        # The norm may round to the other neighbour where it is next to a tie, and its scale with it.
        ratio = scales / expected[1].float()
        assert float((ratio - 1).abs().max()) <= (1 if "mx32" in kernel.name else 2.0**-7)
        assert float(ratio.eq(1).float().mean()) >= 0.8
        assert float((codes.float() == expected[0].float()).float().mean()) >= 0.99
