"""Paired timing: before each timed round the float twin is timed, so that drift of the machine cancels."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter

from qbench_suite.results import LayerRow, ModelRow
from qbench_suite.timing import Timer

#: Rounds of what is timed without a timer of its own.
_ROUNDS = 3


def time_paired(
    row: LayerRow | ModelRow,
    call: Callable[[], object],
    float_call: Callable[[], object],
    timer: Timer,
) -> None:
    """Fill the latencies of ``row``, and ``slowdown``: the median of the rounds' own ratios."""
    float_seconds: list[float] = []

    def before() -> None:
        float_seconds.append(seconds_of(float_call))

    samples = timer(call, before)
    row.latency_ms, row.latency_min_ms = samples.median_ms, samples.min_ms
    row.latency_iqr_ms, row.rounds = samples.iqr_ms, len(samples.seconds)
    if samples.seconds:
        paired = float_seconds[-len(samples.seconds) :]
        row.fp32_latency_ms = median(paired) * 1e3
        row.slowdown = median(q / f for q, f in zip(samples.seconds, paired, strict=True))


def ratio(call: Callable[[], object], float_call: Callable[[], object]) -> float:
    """Median over a few rounds of the time of ``call`` over that of ``float_call`` just before."""
    call()
    rounds = [(seconds_of(float_call), seconds_of(call)) for _ in range(_ROUNDS)]
    return median(seconds / float_seconds for float_seconds, seconds in rounds)


def seconds_of(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = perf_counter()
    call()
    return perf_counter() - start
