"""Timing beside others: every round has its own, in the same order."""

from __future__ import annotations

from collections.abc import Callable

from qbench_suite.engine.paired import time_beside
from qbench_suite.timing import RoundTimer, Samples


def test_others_are_timed_before_each_round_and_warm_up_is_left_out() -> None:
    calls: list[str] = []
    others = {name: (lambda name=name: calls.append(name)) for name in ("a", "b")}
    samples, beside = time_beside(lambda: calls.append("own"), others, RoundTimer(3, warmup=2))
    assert calls == ["a", "b", "own"] * 5
    assert len(samples.seconds) == 3
    assert {name: len(seconds) for name, seconds in beside.items()} == {"a": 3, "b": 3}


def test_without_rounds_there_is_nothing_beside() -> None:
    def untimed(
        function: Callable[[], object], before: Callable[[], object] | None = None
    ) -> Samples:
        if before:
            before()
        return Samples(())

    samples, beside = time_beside(lambda: None, {"a": lambda: None}, untimed)
    assert (samples.seconds, beside) == ((), {"a": []})
