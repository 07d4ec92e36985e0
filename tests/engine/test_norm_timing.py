"""Times of norm cases on a device made up."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest

from qbench_suite import NORM_OPERATIONS, FloatFormat, IdentityFormat, Manager, NormKernel
from qbench_suite.engine import Engine, Settings
from qbench_suite.engine.norm_timing import time_on_cuda
from qbench_suite.errors import KernelError
from qbench_suite.results import NormRow
from qbench_suite.timing import RoundTimer, Samples
from tests.timing.simulated import Simulated

MakeManager = Callable[..., Manager]
MakeEngine = Callable[..., Engine]
FORMATS = (
    IdentityFormat(name="fp32"),
    FloatFormat(name="fp16", exponent_bits=5, mantissa_bits=10),
)
RMS = NORM_OPERATIONS["rms_norm"]


def untimed(function: Callable[[], object], before: object = None, clock: object = None) -> Samples:
    return Samples(())


@pytest.fixture
def make_engine(make_manager: MakeManager) -> MakeEngine:
    """``make_engine(operation, prepare)``; the provider is called x."""

    def make(operation: Any, prepare: Any = None) -> Engine:
        kernel = NormKernel(provider="x", operation=operation, prepare=prepare or operation.eager)
        return Engine(make_manager(formats=FORMATS, norm_kernels=[kernel]), Settings())

    return make


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A device made up, on which a copy takes 1 µs."""
    device = Simulated()
    monkeypatch.setattr(
        "qbench_suite.engine.norm_timing.copies",
        lambda nbytes, sets, _: [
            functools.partial(device.launch, f"copy{n}", 1e-6) for n in range(sets)
        ],
    )
    return device


def timed_on(device: Any, make_engine: MakeEngine, shape: tuple[int, ...]) -> NormRow:
    sets = iter(range(10_000))

    def prepare(inputs: Any) -> Callable[[], object]:
        return functools.partial(device.launch, f"kernel{next(sets)}", 2e-6)

    own = dataclasses.replace(
        RMS, eager=lambda inputs: functools.partial(device.launch, "torch", 6e-6)
    )
    engine = make_engine(RMS, prepare)
    posed = dataclasses.replace(engine.norms.posed(RMS, shape, "float32", "weight"), operation=own)
    (kernel,) = engine.manager.norm_kernels
    row = NormRow(bytes_moved=2000)
    time_on_cuda(row, kernel, posed, device, RoundTimer(3))
    return row


def test_device_time_is_of_calls_that_find_their_inputs_cold(
    simulated: Any, make_engine: MakeEngine
) -> None:
    row = timed_on(simulated, make_engine, (1024, 256))  # 1 MiB and the weight
    assert (row.method, row.torch_method, row.cache) == ("cuda_graph", "cuda_graph", "cold")
    assert row.input_sets == 12  # a KiB above 12 times 1 MiB
    assert row.latency_ms == pytest.approx(2e-3)
    assert row.rounds == 3
    assert row.torch_latency_ms == pytest.approx(6e-3)
    assert row.speedup_torch == pytest.approx(3)
    assert row.copy_share == pytest.approx(0.5)
    assert row.gb_per_s == pytest.approx(1.0)
    assert row.copy_gb_per_s == pytest.approx(2.0)
    assert row.warm_latency_ms == pytest.approx(2e-3)
    assert row.host_overhead_us is not None
    assert row.host_overhead_us >= 0
    kernels = [what for what in simulated.launched if str(what).startswith("kernel")]
    assert {*kernels} == {f"kernel{n}" for n in range(12)}
    assert kernels.count("kernel0") > kernels.count("kernel1"), "the warm calls take one set"


def test_inputs_that_any_cache_holds_are_called_warm(
    simulated: Any, make_engine: MakeEngine
) -> None:
    simulated.l2_bytes = 1 << 30
    row = timed_on(simulated, make_engine, (2, 2))
    assert (row.cache, row.input_sets) == ("warm", 1024)


def test_without_rounds_the_device_has_no_latency(simulated: Any, make_engine: MakeEngine) -> None:
    engine = make_engine(RMS)
    posed = engine.norms.posed(RMS, (64, 64), "float32", "weight")
    (kernel,) = engine.manager.norm_kernels
    row = NormRow(bytes_moved=2000)
    time_on_cuda(row, kernel, posed, simulated, untimed)
    assert (row.latency_ms, row.warm_latency_ms, row.gb_per_s) == (None, None, None)


def test_calls_warm_the_device_up_before_the_first_round(
    simulated: Any, make_engine: MakeEngine
) -> None:
    """Calls of 2 µs, as many as take 0.2 s, before any of what is timed beside them."""
    timed_on(simulated, make_engine, (1024, 256))
    names = [str(what)[:4] for what in simulated.launched]
    prepared = names[names.index("copy") + 12 :]  # each call is made once before its capture
    alone = prepared.index("torc")
    assert {*prepared[:alone]} == {"kern"}
    assert 0.2 <= alone * 2e-6 < 0.21


def test_the_outputs_of_the_calls_that_are_timed_come_with_their_inputs(
    simulated: Any, make_engine: MakeEngine
) -> None:
    made: list[tuple[Any, list[object]]] = []

    def prepare(inputs: Any) -> Callable[[], object]:
        gave: list[object] = []
        made.append((inputs, gave))

        def call() -> object:
            gave.append(simulated.launch("kernel", 2e-6))
            return gave[-1]

        return call

    engine = make_engine(RMS, prepare)
    posed = engine.norms.posed(RMS, (1024, 256), "float32", "weight")
    (kernel,) = engine.manager.norm_kernels
    row = NormRow(bytes_moved=2000)
    found = list(time_on_cuda(row, kernel, posed, simulated, untimed))
    assert len(found) == row.input_sets == 12
    for (inputs, gave), (given, output) in zip(made, found, strict=True):
        assert inputs is given
        # Once before the capture; five times in the graph.
        assert output is gave[5]


def test_a_row_says_why_its_calls_are_no_graph(simulated: Any, make_engine: MakeEngine) -> None:
    assert timed_on(simulated, make_engine, (64, 64)).no_graph == ""
    simulated._refuses = True
    row = timed_on(simulated, make_engine, (64, 64))
    assert (row.method, row.no_graph) == (
        "cuda_events", "operation not permitted when stream is capturing",
    )  # fmt: skip


def test_a_call_that_takes_no_time_is_an_error(simulated: Any, make_engine: MakeEngine) -> None:
    engine = make_engine(RMS, lambda inputs: functools.partial(simulated.launch, "kernel", 0.0))
    posed = engine.norms.posed(RMS, (1024, 256), "float32", "weight")
    (kernel,) = engine.manager.norm_kernels
    with pytest.raises(KernelError, match="A call takes time"):
        time_on_cuda(NormRow(bytes_moved=2000), kernel, posed, simulated, RoundTimer(3))
