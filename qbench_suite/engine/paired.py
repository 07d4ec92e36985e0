"""Paired timing: before each timed round float twins are timed, so that drift of the machine cancels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter

from qbench_suite.results import LayerRow, ModelRow
from qbench_suite.timing import Clock, Samples, Timer

#: Rounds of what is timed without a timer of its own.
_ROUNDS = 3


def time_paired(
    row: LayerRow | ModelRow,
    call: Callable[[], object],
    float_call: Callable[[], object],
    timer: Timer,
) -> None:
    """Fill the latencies of ``row``, and ``slowdown``: the median of the rounds' own ratios."""
    samples, beside = time_beside(call, {"float": float_call}, timer)
    row.latency_ms, row.latency_min_ms = samples.median_ms, samples.min_ms
    row.latency_iqr_ms, row.rounds = samples.iqr_ms, len(samples.seconds)
    if samples.seconds:
        paired = beside["float"]
        row.fp32_latency_ms = median(paired) * 1e3
        row.slowdown = median(q / f for q, f in zip(samples.seconds, paired, strict=True))


def time_beside(
    call: Callable[[], object],
    others: Mapping[str, Callable[[], object]],
    timer: Timer,
    clock: Clock | None = None,
) -> tuple[Samples, dict[str, list[float]]]:
    """Samples of ``call``, and the seconds of each of ``others`` just before each of its rounds.

    ``clock``: what both are read from; without one, the wall clock.
    """
    seconds: dict[str, list[float]] = {name: [] for name in others}

    def before() -> None:
        for name, other in others.items():
            seconds[name].append(seconds_of(other, clock or perf_counter))

    samples = timer(call, before, clock) if clock else timer(call, before)
    timed = len(samples.seconds)  # rounds of warm-up come before
    return samples, {name: all[len(all) - timed :] for name, all in seconds.items()}


def ratio(call: Callable[[], object], float_call: Callable[[], object]) -> float:
    """Median over a few rounds of the time of ``call`` over that of ``float_call`` just before."""
    call()
    rounds = [(seconds_of(float_call), seconds_of(call)) for _ in range(_ROUNDS)]
    return median(seconds / float_seconds for float_seconds, seconds in rounds)


def seconds_of(call: Callable[[], object], clock: Clock = perf_counter) -> float:
    """Time of one call, by default on the wall clock."""
    start = clock()
    call()
    return clock() - start
