"""Timers, their statistics, memory peaks, and the allocator."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qbench_suite.timing import RoundTimer, Samples, peak_bytes, synchronised

CPU = torch.device("cpu")
SECONDS = st.lists(st.floats(1e-6, 10), min_size=2, max_size=30)


@given(SECONDS)
def test_statistics_are_numpys(seconds: list[float]) -> None:
    samples = Samples(tuple(seconds))
    lower, upper = np.percentile(seconds, [25, 75])
    assert samples.median_ms == pytest.approx(np.median(seconds) * 1e3)
    assert samples.min_ms == pytest.approx(min(seconds) * 1e3)
    assert samples.iqr_ms == pytest.approx((upper - lower) * 1e3, abs=1e-9)


def test_few_samples_have_few_statistics() -> None:
    assert (Samples(()).median_ms, Samples(()).min_ms, Samples(()).iqr_ms) == (None, None, None)
    one = Samples((0.5,))
    assert (one.median_ms, one.min_ms, one.iqr_ms) == (500, 500, None)


def test_timer_calls_before_each_round_and_times_only_the_function() -> None:
    calls: list[str] = []

    def before() -> None:
        calls.append("before")
        time.sleep(0.02)

    def function() -> None:
        calls.append("function")
        time.sleep(0.002)

    samples = RoundTimer(rounds=3, warmup=2)(function, before)
    assert calls == ["before", "function"] * 5
    assert len(samples.seconds) == 3
    assert all(s >= 0.002 for s in samples.seconds)
    assert min(samples.seconds) < 0.02


def test_timer_needs_nothing_before() -> None:
    assert len(RoundTimer(rounds=2, warmup=0)(lambda: None).seconds) == 2


def test_on_the_cpu_a_call_is_synchronous_as_it_is() -> None:
    def function() -> None: ...

    assert synchronised(function, CPU) is function


MIB = 1 << 20


def test_peak_counts_what_is_held_at_once() -> None:
    def two_at_once() -> object:
        first = torch.empty(MIB, dtype=torch.uint8)
        second = torch.empty(2 * MIB, dtype=torch.uint8)
        del first
        return second

    def one_after_the_other() -> object:
        first = torch.empty(MIB, dtype=torch.uint8)
        del first
        return torch.empty(2 * MIB, dtype=torch.uint8)

    assert peak_bytes(two_at_once, CPU) == 3 * MIB
    assert peak_bytes(one_after_the_other, CPU) == 2 * MIB


def test_peak_leaves_out_what_was_held_before() -> None:
    held = torch.ones(MIB)
    assert peak_bytes(lambda: held.sum(), CPU) < 4096
    assert peak_bytes(lambda: held.clone(), CPU) == 4 * MIB


def test_call_that_allocates_nothing_has_no_peak() -> None:
    assert peak_bytes(lambda: None, CPU) == 0


def test_keeping_freed_blocks_is_idempotent_and_told() -> None:
    script = (
        "from qbench_suite.timing import allocator, keep_freed_blocks\n"
        "print(allocator(), keep_freed_blocks(), keep_freed_blocks(), allocator())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    first, *others = done.stdout.split()
    assert first == "default"
    assert len(set(others)) == 1
    if sys.platform.startswith("linux"):
        assert others[0] in ("kept", "default")


def test_timer_reads_the_clock_it_is_given() -> None:
    now = 0.0

    def function() -> None:
        nonlocal now
        now += 3.0

    def before() -> None:
        nonlocal now
        now += 100.0

    samples = RoundTimer(rounds=2, warmup=1)(function, before, lambda: now)
    assert samples.seconds == (3.0, 3.0)
