"""Bursts: many calls launched at once, so that the device's own time is measured, not the host's."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from qbench_suite.errors import KernelError
from qbench_suite.timing.cuda import Cuda, first_line

#: Calls of a burst, at least: a kernel of 2 µs then takes far longer than events can tell apart.
_CALLS = 50
#: Sets are this many times the cache: replacement is not strictly by age.
_TIMES_THE_CACHE = 3
#: Calls on inputs this small are bound by their launch, wherever the bytes are.
_MOST_SETS = 1024
#: Device time after which clocks have risen, and bursts at most that are run for it.
_WARM_UP_SECONDS, _WARM_UP_BURSTS = 0.2, 1000
_LOG = logging.getLogger("qbench_suite")


def cold_sets(bytes_of_a_set: int, l2_bytes: int) -> int:
    """Sets of inputs in turn until one is back in no cache: more than three times the L2 together.

    At least two, at most 1,024.
    """
    needed = _TIMES_THE_CACHE * l2_bytes // max(bytes_of_a_set, 1) + 1
    return min(max(needed, 2), _MOST_SETS)


def is_cold(sets: int, bytes_of_a_set: int, l2_bytes: int) -> bool:
    """Whether so many sets together exceed three times the cache."""
    return sets > 1 and sets * bytes_of_a_set > _TIMES_THE_CACHE * l2_bytes


@dataclass(frozen=True)
class Burst:
    """Calls over sets of inputs in turn, each set as often as the others."""

    #: Number of calls.
    calls: int
    method: Literal["cuda_graph", "cuda_events"]
    _cuda: Cuda
    #: Runs all calls; what the last on each set returned, in the order of the sets.
    _launch: Callable[[], Sequence[object]]
    #: Why it is no graph; empty where it is one.
    no_graph: str = ""

    def seconds(self) -> float:
        """Device time of one call: the mean of the burst."""
        return self._cuda.seconds(self._launch) / self.calls

    def outputs(self) -> Sequence[object]:
        """What calls return when the burst runs once more: of each set, what the last call on it did."""
        outputs = self._launch()
        self._cuda.synchronize()
        return outputs

    def warm_up(self) -> None:
        """Run for about 0.2 s of device time, so that the clocks of the device have risen."""
        spent = 0.0
        for _ in range(_WARM_UP_BURSTS):
            spent += 2 * self.seconds() * self.calls  # it runs once before what it times
            if spent >= _WARM_UP_SECONDS:
                return


def burst(cuda: Cuda, thunks: Sequence[Callable[[], object]]) -> Burst:
    """A burst of ``thunks`` in turn, one for each set of inputs; inside ``cuda.stream`` only.

    As one CUDA graph where that can be captured. Outputs of as many calls as there are thunks stay
    allocated, so that their memory is rotated like the inputs'. Where memory runs out, or a kernel
    cannot be compiled or launched, that is raised; for any other reason there is no graph.
    """
    calls = len(thunks) * math.ceil(_CALLS / len(thunks))

    def work() -> Sequence[object]:
        kept: deque[object] = deque(maxlen=len(thunks))
        for number in range(calls):
            kept.append(thunks[number % len(thunks)]())
        return kept

    held: list[object] = []
    for thunk in thunks:  # what is done once, such as compiling, is not for a graph
        thunk()
    try:
        replay = cuda.capture(lambda: held.extend(work()))
    except Exception as error:
        _pass_on(error)
        _LOG.debug("calls cannot be captured; they are timed without a graph", exc_info=True)
        return Burst(calls, "cuda_events", cuda, work, first_line(error))

    def launch() -> Sequence[object]:
        replay()
        return held  # the graph writes to the memory of these at each replay

    return Burst(calls, "cuda_graph", cuda, launch)


def _pass_on(error: BaseException) -> None:
    """Raise what no other way of timing mends, though the end of the capture failed after it."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, torch.OutOfMemoryError | KernelError):
            raise found
        found = found.__cause__ or found.__context__


def host_seconds(cuda: Cuda, thunks: Sequence[Callable[[], object]]) -> float:
    """Wall time of a call among calls of ``thunks`` in turn that the host launches one by one."""
    calls = len(thunks) * math.ceil(_CALLS / len(thunks))
    cuda.synchronize()
    start = time.perf_counter()
    for number in range(calls):
        thunks[number % len(thunks)]()
    cuda.synchronize()
    return (time.perf_counter() - start) / calls


class DeviceClock:
    """A clock that goes on only while the device works on a call: what timers read device time from."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def __call__(self) -> float:
        """Seconds that the calls so far took on the device."""
        return self._seconds

    def counting(self, burst: Burst) -> Callable[[], None]:
        """A function that runs ``burst`` and sets the clock forward by one of its calls."""

        def run() -> None:
            self._seconds += burst.seconds()

        return run
