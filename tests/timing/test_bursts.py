"""Bursts and the device clock: on a device made up, and on a real one against a kernel of known length."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import pytest
import torch

from qbench_suite import SM_90, CudaSource, KernelError, LaunchError, inspect_function
from qbench_suite.timing import (
    Cuda,
    DeviceClock,
    RoundTimer,
    burst,
    cold_sets,
    copies,
    host_seconds,
    is_cold,
)
from tests.timing.simulated import Simulated

SPIN = CudaSource(Path(__file__).parent / "spin.cu").function("spin")
MIB = 1 << 20


@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize("sets", [1, 2, 7, 50, 51, 120])
def test_calls_take_every_set_in_turn_and_equally_often(refuses: bool, sets: int) -> None:
    device = Simulated(refuses=refuses)
    made = burst(device.cuda, device.thunks([1.0] * sets))
    assert made.method == ("cuda_events" if refuses else "cuda_graph")
    assert made.calls >= 50
    assert made.calls % sets == 0
    device.launched.clear()
    assert made.seconds() == pytest.approx(1.0)
    assert device.launched == [*range(sets)] * (2 * made.calls // sets)  # once before it is timed


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), KernelError("no"), LaunchError("too large")]
)
def test_what_no_other_way_mends_is_passed_on(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        burst(Simulated(refuses=error).cuda, [lambda: None])
    assert caught.value is error


def test_what_work_raised_is_found_behind_the_end_of_the_capture() -> None:
    after = RuntimeError("capture invalidated")
    after.__context__ = torch.OutOfMemoryError("full")
    with pytest.raises(torch.OutOfMemoryError):
        burst(Simulated(refuses=after).cuda, [lambda: None])


@pytest.mark.parametrize("error", [ValueError("odd"), TypeError("odd"), RuntimeError("odd\nmore")])
def test_whatever_else_a_capture_raises_leaves_events(error: Exception) -> None:
    made = burst(Simulated(refuses=error).cuda, [lambda: None])
    assert (made.method, made.no_graph) == ("cuda_events", "odd")


def test_a_call_that_fails_without_a_graph_too_is_an_error() -> None:
    calls = iter(range(10**6))

    def thunk() -> None:
        if next(calls):
            raise ValueError("odd")

    made = burst(Simulated().cuda, [thunk])
    assert made.method == "cuda_events"
    with pytest.raises(ValueError, match="odd"):
        made.seconds()


def test_a_burst_is_captured_after_one_that_was_not() -> None:
    device = Simulated()

    def thunk() -> None:
        if device._graph is not None:
            raise RuntimeError("this waits for the device")

    assert burst(device.cuda, [thunk]).method == "cuda_events"
    made = burst(device.cuda, device.thunks([1.0]))
    assert (made.method, made.no_graph) == ("cuda_graph", "")
    assert made.seconds() == pytest.approx(1.0)


@pytest.mark.parametrize("refuses", [False, True])
def test_outputs_are_those_of_the_last_call_on_each_set(refuses: bool) -> None:
    gave: list[list[object]] = [[], [], []]
    made = burst(
        Simulated(refuses=refuses).cuda,
        [lambda own=own: own.append(object()) or own[-1] for own in gave],  # type: ignore[misc]
    )
    assert list(made.outputs()) == [own[-1] for own in gave]


def test_time_of_a_call_is_the_mean_over_the_sets() -> None:
    device = Simulated()
    assert burst(device.cuda, device.thunks([1.0, 2.0, 6.0])).seconds() == pytest.approx(3.0)


def test_what_is_done_once_is_done_before_the_capture() -> None:
    device = Simulated()
    captured: list[bool] = []

    def thunk() -> object:
        captured.append(device._graph is not None)
        return device.launch("x", 1.0)

    burst(device.cuda, [thunk, thunk])
    assert captured[:2] == [False, False]
    assert all(captured[2:])


def test_outputs_of_as_many_calls_as_sets_are_kept() -> None:
    """Were they freed at once, every call would write to memory that the cache still holds."""
    device = Simulated()
    alive: set[int] = set()
    most = 0

    class Output:
        def __init__(self) -> None:
            nonlocal most
            alive.add(id(self))
            most = max(most, len(alive))

        def __del__(self) -> None:
            alive.discard(id(self))

    burst(device.cuda, [Output] * 5)
    assert 5 <= most <= 6
    assert not alive


@pytest.mark.parametrize(
    ("nbytes", "sets"),
    [
        (4 * MIB, 4),  # 12 MiB is exactly three times the cache; one more exceeds it
        (5 * MIB, 3),
        (12 * MIB, 2),
        (100 * MIB, 2),
        (MIB, 13),
        (0, 1024),
        (1, 1024),
    ],
)
def test_sets_exceed_three_times_the_cache(nbytes: int, sets: int) -> None:
    assert cold_sets(nbytes, 4 * MIB) == sets
    assert is_cold(sets, nbytes, 4 * MIB) == (sets < 1024)
    assert not is_cold(1, 100 * MIB, 4 * MIB)
    if 2 < sets < 1024:
        assert not is_cold(sets - 1, nbytes, 4 * MIB)


def test_device_clock_goes_on_by_a_call_a_run() -> None:
    device, clock = Simulated(), DeviceClock()
    lengths = iter([5.0, 1.0, 9.0, 2.0])  # a warm-up, then three rounds
    measured = burst(device.cuda, device.thunks([1.0]))
    object.__setattr__(measured, "_launch", tuple)
    device.seconds = lambda _: next(lengths) * measured.calls  # type: ignore[method-assign]
    samples = RoundTimer(3, warmup=1)(clock.counting(measured), clock=clock)
    assert samples.seconds == pytest.approx((1.0, 9.0, 2.0))
    assert samples.median_ms == pytest.approx(2000)
    assert clock() == pytest.approx(17)


def test_host_time_is_that_of_calls_one_by_one() -> None:
    device = Simulated()
    assert host_seconds(device.cuda, device.thunks([1.0] * 3)) > 0
    assert device.launched == [*range(3)] * 17


def test_spin_kernel_compiles() -> None:
    try:
        resources = inspect_function(SPIN, SM_90)
    except KernelError as error:
        pytest.skip(str(error))
    assert resources.spill_bytes == 0


@pytest.fixture
def cuda() -> Cuda:
    """The CUDA device; skipped without one."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return Cuda(torch.device("cuda"))


class Spin(ctypes.Structure):
    """The argument of ``spin``."""

    _fields_ = (("nanoseconds", ctypes.c_uint64),)


@pytest.mark.parametrize("microseconds", [20, 400])
def test_kernel_of_known_length_is_measured_as_long_as_it_is(cuda: Cuda, microseconds: int) -> None:
    plan = SPIN.plan(grid=(1, 1, 1), block=(32, 1, 1), device=cuda.device)
    thunk = functools.partial(plan, Spin(microseconds * 1000))
    with cuda.stream():
        made = burst(cuda, [thunk] * 3)
        seconds = made.seconds()
    assert made.method == "cuda_graph"
    # The device's clock may tick once a microsecond, and a launch takes a few.
    assert microseconds - 1.1 <= seconds * 1e6 <= microseconds * 1.02 + 5


def test_calls_that_cannot_be_captured_are_timed_all_the_same(cuda: Cuda) -> None:
    plan = SPIN.plan(grid=(1, 1, 1), block=(32, 1, 1), device=cuda.device)

    def thunk() -> None:
        plan(Spin(50_000))
        torch.cuda.current_stream().synchronize()

    with cuda.stream():
        made = burst(cuda, [thunk])
        assert made.method == "cuda_events"
        assert made.no_graph
        assert made.seconds() >= 48e-6
        after = burst(cuda, copies(MIB, 2, cuda.device))
        assert after.seconds() > 0, "the stream works on"
        stuck = cuda._side.refusal
        assert after.method == ("cuda_events" if stuck else "cuda_graph")


def test_memory_of_the_device_is_known(cuda: Cuda) -> None:
    assert cuda.l2_bytes > MIB
    with cuda.stream():
        moved = 64 * cuda.l2_bytes
        seconds = burst(cuda, copies(moved, 2, cuda.device)).seconds()
    peak = cuda.peak_gb_per_s
    assert peak is None or moved / seconds * 1e-9 < peak
