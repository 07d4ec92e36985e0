"""Checks the kernels in triton's interpreter, in a process that was started with it; prints done."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime import interpreter

from qbench_norms_triton import KERNELS, norms, sizes
from qbench_suite import NormKernel, NormProblem, ulp_errors

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_convert = interpreter._convert_float


def rounded(values: Any, source: Any, target: Any, mode: Any) -> Any:
    """The interpreter cuts the digits of bfloat16 off; devices round to nearest, ties to even."""
    if (source, target) != (tl.float32, tl.bfloat16):
        return _convert(values, source, target, mode)
    found = torch.from_numpy(np.ascontiguousarray(values)).bfloat16()
    return found.view(torch.int16).numpy().view(np.uint16)


def check(kernel: NormKernel, inputs: dict[str, Any], factor: float = 1) -> tuple[Tensor, ...]:
    """Outputs within the tolerance of float64, the same bits at a second call."""
    operation = kernel.operation
    thunk = kernel.prepare(inputs)
    outputs, exact = thunk(), operation.exact(inputs)
    assert len(outputs) == len(exact)
    for name, output, reference in zip(operation.outputs, outputs, exact, strict=False):
        assert (output.shape, output.dtype) == (reference.shape, inputs["x"].dtype)
        found = ulp_errors(output, reference)
        bound = kernel.tolerance(str(output.dtype).removeprefix("torch.")) * factor
        assert found.max_ulp <= bound, (kernel.name, inputs["x"].shape, output.dtype, name, found)
        assert not found.nonfinite, (kernel.name, inputs["x"].shape, name)
    assert all(
        torch.equal(a, b) for a, b in zip(thunk(), outputs, strict=True) if not a.isnan().any()
    )
    return outputs


def drawn(
    kernel: NormKernel, shape: tuple[int, ...], dtype: torch.dtype, affine: Any = None
) -> Any:
    return kernel.operation.inputs(NormProblem(shape, dtype, affine))


def shapes() -> None:
    """Widths beside powers of two, no rows, more rows than a block has; all affine options."""
    for kernel in KERNELS:
        for dtype in DTYPES:
            for affine in kernel.operation.affine:
                check(kernel, drawn(kernel, (5, 97), dtype, affine))
            for shape in ((0, 5), (37, 100), (2, 1001)):
                check(kernel, drawn(kernel, shape, dtype))


def steps() -> None:
    """Rows longer than a block: the same kernels as for the longest, their blocks made short."""
    held = sizes._HELD, sizes._HELD_BACKWARD, sizes._STEP
    sizes._HELD, sizes._HELD_BACKWARD, sizes._STEP = 512, 512, 256
    for kernel in KERNELS:
        for dtype, affine in zip(DTYPES, kernel.operation.affine, strict=False):
            check(kernel, drawn(kernel, (3, 1300), dtype, affine))
    sizes._HELD, sizes._HELD_BACKWARD, sizes._STEP = held


def values() -> None:
    """Zeros, constants, a large mean, huge values, and what is not finite, in rows of their own."""
    for kernel in KERNELS:
        if kernel.operation.direction == "backward" or "add" in kernel.name:
            continue
        for width in (64, 1300):
            sizes._HELD = 512
            inputs = drawn(kernel, (9, width), torch.float32)
            x = inputs["x"]
            x[0], x[1], x[2], x[3] = 0, 3.5, x[2] + 1e6, x[3] * 1e30
            x[4, 5], x[5, 0], x[6, 7], x[7] = torch.nan, torch.inf, -torch.inf, x[7] * 1e-20
            clean = drawn(kernel, (9, width), torch.float32)
            outputs = check(kernel, inputs)
            assert torch.equal(outputs[0][8], check(kernel, clean)[0][8]), "rows leave rows alone"
    sizes._HELD = 16384


def gradients_at_a_large_mean() -> None:
    for kernel in KERNELS:
        if kernel.name == "layer_norm_backward:triton":
            inputs = drawn(kernel, (4, 200), torch.float32)
            inputs["x"] += 1e6
            check(kernel, inputs)


def strides() -> None:
    """Every other row of a wider tensor, from its second element on; a gradient that is expanded."""
    for kernel in KERNELS:
        inputs = drawn(kernel, (6, 96), torch.float16)
        wide = torch.zeros(12, 200, dtype=torch.float16)
        for name in ("x", "residual"):
            if name in inputs:
                view = wide.clone()[::2, 1:97]
                inputs[name] = view.copy_(inputs[name])
        if "dy" in inputs:
            inputs["dy"] = inputs["dy"][:1].expand(6, 96)
        check(kernel, inputs)


def batches() -> None:
    """A row has the same bits in any batch."""
    for kernel in KERNELS:
        if kernel.operation.direction == "forward":
            inputs = drawn(kernel, (7, 300), torch.bfloat16)
            whole = kernel.prepare(inputs)()[0]
            for rows in (1, 3):
                cut = {k: v[:rows] if k in ("x", "residual") else v for k, v in inputs.items()}
                assert torch.equal(kernel.prepare(cut)()[0], whole[:rows])


def one_element() -> None:
    """Of rows of one element a norm leaves the bias, or the sign."""
    for kernel in KERNELS:
        if kernel.operation.direction == "forward":
            check(kernel, drawn(kernel, (9, 1), torch.float32))


def main() -> None:
    interpreter._convert_float = rounded
    assert norms is not None
    for part in (shapes, steps, values, gradients_at_a_large_mean, strides, batches, one_element):
        part()
    print("done")


if __name__ == "__main__":
    main()
