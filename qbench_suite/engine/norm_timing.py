"""Timing of norm kernels: beside torch's own and a copy of as many bytes, on the device or the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qbench_suite.engine.norm_problem import PosedProblem
from qbench_suite.engine.paired import time_beside
from qbench_suite.errors import KernelError
from qbench_suite.norms import NormKernel, Thunk
from qbench_suite.timing import (
    Burst,
    Cuda,
    DeviceClock,
    Samples,
    Timer,
    burst,
    cold_sets,
    copies,
    gb_per_s,
    host_seconds,
    is_cold,
    synchronised,
)

if TYPE_CHECKING:
    from qbench_suite.results.norm_rows import NormRow

#: Bursts of which the median is the warm latency.
_WARM_ROUNDS = 5
#: What a call on each set of inputs returned, with the set.
Calls = Iterator[tuple[dict[str, Any], Any]]


def time_on_cpu(
    row: NormRow, posed: PosedProblem, thunk: Thunk, device: torch.device, timer: Timer
) -> None:
    """Wall-clock latency of ``thunk``; torch's own and a copy are timed before each round."""
    own = posed.operation.eager(posed.copied_inputs())
    (copy,) = copies(row.bytes_moved or 0, 1, device)
    row.method = row.torch_method = "wall_clock"
    row.cache, row.input_sets = "warm", 1
    own()  # what it does once
    others = {"torch": synchronised(own, device), "copy": synchronised(copy, device)}
    _fill(row, *time_beside(synchronised(thunk, device), others, timer))


def time_on_cuda(
    row: NormRow, kernel: NormKernel, posed: PosedProblem, cuda: Cuda, timer: Timer
) -> Calls:
    """Device latency of bursts on inputs in turn, which no cache holds; then on one set, and the host's.

    Gives what the calls of the burst that was timed return, with their inputs. Inside ``cuda.stream``
    only.
    """
    moved, given = row.bytes_moved or 0, _bytes_of(posed)
    number = cold_sets(given, cuda.l2_bytes)
    sets = [posed.copied_inputs() for _ in range(number)]
    thunks = [kernel.prepare(inputs) for inputs in sets]
    measured = burst(cuda, thunks)
    own = burst(cuda, [posed.operation.eager(inputs) for inputs in sets])
    row.method, row.torch_method, row.input_sets = measured.method, own.method, number
    row.no_graph = measured.no_graph
    row.cache = "cold" if is_cold(number, given, cuda.l2_bytes) else "warm"
    clock = DeviceClock()
    others = {"torch": own, "copy": burst(cuda, copies(moved, number, cuda.device))}
    counted = {name: clock.counting(other) for name, other in others.items()}
    measured.warm_up()
    _fill(row, *time_beside(clock.counting(measured), counted, timer, clock))
    if row.latency_ms is not None:
        row.warm_latency_ms = _median_ms(burst(cuda, thunks[:1]))
        warm_copy = _median_ms(burst(cuda, copies(moved, 1, cuda.device)))
        row.warm_copy_gb_per_s = gb_per_s(moved, warm_copy * 1e-3)
        row.host_overhead_us = max(host_seconds(cuda, thunks) - row.latency_ms * 1e-3, 0.0) * 1e6
        row.peak_gb_per_s = cuda.peak_gb_per_s
    return zip(sets, measured.outputs(), strict=True)


def _bytes_of(posed: PosedProblem) -> int:
    return sum(value.nbytes for value in posed.inputs.values() if isinstance(value, Tensor))


def _median_ms(burst: Burst) -> float:
    return median(burst.seconds() for _ in range(_WARM_ROUNDS)) * 1e3


def _fill(row: NormRow, samples: Samples, beside: dict[str, list[float]]) -> None:
    row.latency_ms, row.latency_min_ms = samples.median_ms, samples.min_ms
    row.latency_iqr_ms, row.rounds = samples.iqr_ms, len(samples.seconds)
    if row.latency_ms is None:
        return
    if min(samples.seconds) <= 0:
        raise KernelError(
            f"A call takes time; one of {row.provider}'s {row.operation} took none. Let it launch the "
            "work that its outputs need."
        )
    moved = row.bytes_moved or 0
    row.torch_latency_ms = median(beside["torch"]) * 1e3
    row.gb_per_s = gb_per_s(moved, row.latency_ms * 1e-3)
    row.copy_gb_per_s = gb_per_s(moved, median(beside["copy"]))
    row.copy_max_gb_per_s = gb_per_s(moved, min(beside["copy"]))
    row.speedup_torch = _ratio(beside["torch"], samples.seconds)
    row.copy_share = _ratio(beside["copy"], samples.seconds)


def _ratio(others: Sequence[float], seconds: Sequence[float]) -> float:
    return median(other / own for other, own in zip(others, seconds, strict=True))
