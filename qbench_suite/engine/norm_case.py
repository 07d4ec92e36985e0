"""A norm case: a kernel's error against float64, its determinism, its latency beside torch's own."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from qbench_suite.engine.norm_errors import judge_outputs
from qbench_suite.engine.norm_problem import (
    PosedProblem,
    checked_outputs,
    require_unchanged,
    same_bits,
)
from qbench_suite.engine.norm_timing import time_on_cpu, time_on_cuda, too_fast
from qbench_suite.errors import KernelError
from qbench_suite.norms import Affine, NormKernel, Thunk
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
    cuda = Cuda(engine.device) if engine.device.type == "cuda" else None
    with cuda.stream() if cuda else nullcontext():
        posed = engine.norms.posed(kernel.operation, case.lengths, case.dtype, affine)
        thunk, reason = _check(kernel, posed, row)
        if cuda:
            del thunk  # it holds inputs that are none of those timed
            time_on_cuda(row, kernel, posed, cuda, timer)
        else:
            time_on_cpu(row, posed, thunk, engine.device, timer)
    row.reason = reason or too_fast(row)
    row.outcome = "failed" if row.reason else "passed"


def affine_of(kernel: NormKernel) -> Affine:
    """The affine option that ``kernel`` is measured with: its operation's default where it has that."""
    options = kernel.operation.affine
    return options[0] if not kernel.affine or options[0] in kernel.affine else kernel.affine[0]


def _check(kernel: NormKernel, posed: PosedProblem, row: NormRow) -> tuple[Thunk, str]:
    """The prepared call, and why its outputs are wrong; fills what ``row`` says of them."""
    inputs = posed.copied_inputs()
    thunk = kernel.prepare(inputs)
    outputs = checked_outputs(posed, thunk(), kernel.name)
    require_unchanged(posed, inputs, kernel.name)
    row.bytes_moved = posed.operation.bytes_moved(posed.inputs, outputs)
    reason = judge_outputs(row, kernel, posed, outputs)
    # Prepared afresh, as running statistics go on from call to call.
    first = [output.clone() for output in outputs]
    again = kernel.prepare(posed.copied_inputs())()
    row.deterministic = all(map(same_bits, first, checked_outputs(posed, again, kernel.name)))
    return thunk, reason
