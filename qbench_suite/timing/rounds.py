"""Timers: a function, called round by round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class Samples:
    """Seconds of each round; empty where timing is disabled."""

    seconds: tuple[float, ...]

    @property
    def median_ms(self) -> float | None:
        """Median in milliseconds; None without samples."""
        return statistics.median(self.seconds) * 1e3 if self.seconds else None

    @property
    def min_ms(self) -> float | None:
        """Minimum in milliseconds; None without samples."""
        return min(self.seconds) * 1e3 if self.seconds else None

    @property
    def iqr_ms(self) -> float | None:
        """Interquartile range in milliseconds; None below two samples."""
        if len(self.seconds) < 2:
            return None
        lower, _, upper = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (upper - lower) * 1e3


#: Seconds since some moment, as ``time.perf_counter`` gives them.
Clock = Callable[[], float]


class Timer(Protocol):
    """Calls ``function`` once a round, after ``before``, which is not timed; reads ``clock``."""

    def __call__(
        self,
        function: Callable[[], object],
        before: Callable[[], object] | None = None,
        clock: Clock = time.perf_counter,
    ) -> Samples: ...


@dataclass(frozen=True)
class RoundTimer:
    """Timer without pytest: ``warmup`` untimed rounds, then ``rounds`` timed ones."""

    rounds: int = 5
    warmup: int = 1

    def __call__(
        self,
        function: Callable[[], object],
        before: Callable[[], object] | None = None,
        clock: Clock = time.perf_counter,
    ) -> Samples:
        seconds = []
        for _ in range(self.warmup + self.rounds):
            if before:
                before()
            start = clock()
            function()
            seconds.append(clock() - start)
        return Samples(tuple(seconds[self.warmup :]))


def synchronised(function: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """``function`` followed by a wait for ``device``, so that its time includes its kernels."""
    if device.type == "cpu":
        return function

    def call() -> object:
        result = function()
        torch.accelerator.synchronize(device)
        return result

    return call
