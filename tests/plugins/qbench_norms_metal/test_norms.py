"""The metal kernels, on an Apple GPU where there is one, else in the emulator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from qbench_norms_metal import KERNELS, qbench_register_norm_kernels, unavailable
from qbench_suite import SM_90, DeviceError, NormKernel, NormProblem, emulating, guarded, ulp_errors
from qbench_suite.native.compiler import find_compiler

DTYPES = ("float32", "float16", "bfloat16")
WIDTHS = (1, 7, 768, 1001, 4096, 5000)
MPS = torch.backends.mps.is_available()


@pytest.fixture(params=["emulator", "mps"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    if request.param == "mps":
        if not MPS:
            pytest.skip("there is no Apple GPU here")
        yield torch.device("mps")
        return
    if find_compiler() is None:
        pytest.skip("no C++ compiler here")
    with emulating(SM_90):
        yield torch.device("cpu")


def drawn(kernel: NormKernel, rows: int, width: int, dtype: str, affine: Any = None) -> Any:
    return kernel.operation.inputs(NormProblem((rows, width), getattr(torch, dtype), affine))


def outputs_of(kernel: NormKernel, inputs: Any, device: torch.device) -> Tensor:
    """y on the CPU, the same at a second call."""
    there = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
    thunk = kernel.prepare(there)
    (y,) = thunk()
    assert torch.equal(y.nan_to_num(), thunk()[0].nan_to_num())
    return y.cpu()


def check(kernel: NormKernel, inputs: Any, device: torch.device) -> Tensor:
    y = outputs_of(kernel, inputs, device)
    (exact,) = kernel.operation.exact(inputs)
    assert (y.shape, y.dtype) == (exact.shape, inputs["x"].dtype)
    found = ulp_errors(y, exact)
    assert found.max_ulp <= kernel.tolerance(str(y.dtype).removeprefix("torch.")), found
    assert not found.nonfinite
    return y


each_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


@each_kernel
@each_dtype
@pytest.mark.parametrize("width", WIDTHS)
def test_they_compute_their_operations(
    kernel: NormKernel, dtype: str, width: int, device: torch.device
) -> None:
    for affine in kernel.operation.affine if width < 4096 else (None,):
        check(kernel, drawn(kernel, 3, width, dtype, affine), device)


@each_kernel
@pytest.mark.parametrize("width", [768, 5000])
def test_values_that_are_hard(kernel: NormKernel, width: int, device: torch.device) -> None:
    """Zeros, constants, a mean of 10⁶, huge and tiny values; what is not finite stays in its row."""
    inputs = drawn(kernel, 9, width, "float32")
    last = check(kernel, inputs, device)[8]
    x = inputs["x"]
    x[0], x[1], x[2], x[3] = 0, 3.5, x[2] + 1e6, x[3] * 1e30
    x[4, 5], x[5, 0], x[6, 7], x[7] = torch.nan, torch.inf, -torch.inf, x[7] * 1e-20
    assert torch.equal(check(kernel, inputs, device)[8], last)


@each_kernel
@each_dtype
def test_rows_apart_and_off_alignment(kernel: NormKernel, dtype: str, device: torch.device) -> None:
    inputs = drawn(kernel, 4, 50, dtype)
    wide = torch.zeros(8, 131, dtype=inputs["x"].dtype, device=device)
    view = wide[::2, 3:53]
    moved = {**inputs, "x": view.copy_(inputs["x"])}
    expected = outputs_of(kernel, inputs, device)
    assert torch.equal(kernel.prepare(_to(moved, device))()[0].cpu(), expected)


def _to(inputs: Any, device: torch.device) -> Any:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}


@each_kernel
@pytest.mark.parametrize("width", [7, 1001, 5000])
def test_they_stay_within_their_tensors(kernel: NormKernel, width: int) -> None:
    """In the emulator a byte beyond an input raises."""
    if find_compiler() is None:
        pytest.skip("no C++ compiler here")
    for before in (False, True):
        inputs = {
            name: guarded(value, before=before) if isinstance(value, Tensor) else value
            for name, value in drawn(kernel, 2, width, "float16").items()
        }
        with emulating(SM_90):
            check(kernel, inputs, torch.device("cpu"))


@each_kernel
def test_a_row_has_the_same_bits_in_any_batch(kernel: NormKernel, device: torch.device) -> None:
    inputs = drawn(kernel, 7, 1001, "float32")
    whole = outputs_of(kernel, inputs, device)
    for rows in (1, 3):
        cut = {**inputs, "x": inputs["x"][:rows]}
        assert torch.equal(outputs_of(kernel, cut, device), whole[:rows])


@each_kernel
def test_no_rows_give_no_rows(kernel: NormKernel, device: torch.device) -> None:
    assert outputs_of(kernel, drawn(kernel, 0, 64, "float16"), device).shape == (0, 64)


@each_kernel
def test_they_are_for_apples_gpus(kernel: NormKernel) -> None:
    assert unavailable(torch.device("cpu")) == "it runs on an Apple GPU (mps), not on cpu"
    assert not unavailable(torch.device("mps"))
    with pytest.raises(DeviceError, match="mps"):
        kernel.prepare(drawn(kernel, 3, 64, "float32"))


def test_each_is_registered_once() -> None:
    registered: list[NormKernel] = []
    qbench_register_norm_kernels(registered.append)
    assert registered == list(KERNELS)
    assert [kernel.name for kernel in KERNELS] == ["layer_norm:metal", "rms_norm:metal"]
