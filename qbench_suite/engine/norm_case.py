"""A norm case: a kernel's error against float64, its determinism, its latency beside torch's own."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from qbench_suite.engine.halving import is_out_of_memory
from qbench_suite.engine.norm_calls import NormCalls
from qbench_suite.engine.norm_limits import too_fast
from qbench_suite.engine.norm_timing import time_on_cpu, time_on_cuda
from qbench_suite.errors import KernelError
from qbench_suite.norms import Affine, NormKernel
from qbench_suite.timing import Cuda, Timer

if TYPE_CHECKING:
    from qbench_suite.engine.engine import Engine
    from qbench_suite.engine.norm_grid import NormCase
    from qbench_suite.results.norm_rows import NormRow


@torch.no_grad()
def run_norm_case(engine: Engine, case: NormCase, row: NormRow, timer: Timer) -> None:
    """Fill ``row``: errors against float64 and against torch's own, then latency and bandwidth."""
    kernel = engine.manager.norm_kernels.get(case.kernel)
    kernel.require(engine.device)
    if reason := kernel.misfit(case.lengths, case.dtype):
        raise KernelError(
            f"A norm kernel is asked for shapes that it takes; {kernel.name} does not take {case.shape} "
            f"in {case.dtype}: {reason}. Leave them out of --qbench-norm-shapes."
        )
    affine = affine_of(kernel)
    row.direction, row.affine = kernel.operation.direction, affine
    row.threads = torch.get_num_threads()
    try:
        _measure(engine, case, row, timer)
        return
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Out of the except block: the error holds on to the tensors that filled the memory.
    raise KernelError(
        f"The inputs of a norm case, copies of them and the float64 result fit the memory of a device; "
        f"{case.shape} in {case.dtype} is too large for {engine.device}. Ask for smaller "
        "--qbench-norm-shapes, or use another device."
    )


def _measure(engine: Engine, case: NormCase, row: NormRow, timer: Timer) -> None:
    kernel = engine.manager.norm_kernels.get(case.kernel)
    cuda = Cuda(engine.device) if engine.device.type == "cuda" else None
    with cuda.stream() if cuda else nullcontext():
        posed = engine.norms.posed(kernel.operation, case.lengths, case.dtype, affine_of(kernel))
        calls = NormCalls(kernel, posed, row)
        inputs, thunk = calls.checked()
        if cuda:
            del inputs, thunk  # they are none of those timed
            calls.hold(time_on_cuda(row, kernel, posed, cuda, timer))
        else:
            time_on_cpu(row, posed, thunk, engine.device, timer)
            calls.hold([(inputs, thunk())])
    row.reason = calls.reason or too_fast(row)
    row.outcome = "failed" if row.reason else "passed"


def affine_of(kernel: NormKernel) -> Affine:
    """The affine option that ``kernel`` is measured with: its operation's default where it has that."""
    options = kernel.operation.affine
    return options[0] if not kernel.affine or options[0] in kernel.affine else kernel.affine[0]
