"""Calls after the first: those that are timed are judged too."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from qbench_suite import NORM_OPERATIONS, FloatFormat, IdentityFormat, Manager, NormKernel
from qbench_suite.engine import Engine, NormCase, Settings
from qbench_suite.engine.norm_calls import NormCalls
from qbench_suite.results import NormRow
from qbench_suite.timing import RoundTimer

MakeManager = Callable[..., Manager]
Measure = Callable[..., NormRow]
FORMATS = (IdentityFormat(name="fp32"), FloatFormat(name="fp16", exponent_bits=5, mantissa_bits=10))
RMS, BATCH = NORM_OPERATIONS["rms_norm"], NORM_OPERATIONS["batch_norm"]
Prepare = Callable[[Any], Callable[[], Any]]


@pytest.fixture
def measure(make_manager: MakeManager) -> Measure:
    """``measure(prepare, operation, shape, rounds)``: the row of a kernel called x."""

    def run(
        prepare: Prepare, operation: Any = RMS, shape: str = "6x40", rounds: int = 1
    ) -> NormRow:
        tolerance = {"float32": 300.0}
        kernel = NormKernel(
            provider="x", operation=operation, prepare=prepare, tolerance_ulps=tolerance
        )
        engine = Engine(make_manager(formats=FORMATS, norm_kernels=[kernel]), Settings())
        case = NormCase("x", operation.name, shape, "float32", "fp32")
        row = engine.run(case, RoundTimer(rounds))
        assert isinstance(row, NormRow)
        return row

    return run


def from_call(
    first: int, change: Callable[[tuple[Tensor, ...]], Any], operation: Any = RMS
) -> Prepare:
    """Torch's own outputs, as ``change`` leaves them from that call of each prepare on."""

    def prepare(inputs: Any) -> Callable[[], Any]:
        run, calls = operation.eager(inputs), iter(range(10**6))

        def call() -> Any:
            outputs = run()
            return outputs if next(calls) < first else change(outputs)

        return call

    return prepare


@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize(("filler", "words"), [(math.nan, "is NaN or Inf"), (7.0, "is off by")])
def test_a_call_after_the_first_is_judged(
    measure: Measure, first: int, filler: float, words: str
) -> None:
    """The second, and the one after those that were timed."""
    row = measure(from_call(first, lambda outputs: (torch.full_like(outputs[0], filler),)))
    assert (row.outcome, row.deterministic) == ("failed", False)
    assert "In a later call of what prepare returned: y" in row.reason
    assert words in row.reason


def test_a_kernel_that_overwrites_its_own_copy_of_the_input_fails(measure: Measure) -> None:
    def prepare(inputs: Any) -> Callable[[], Any]:
        own = {**inputs, "x": inputs["x"].clone()}
        run = RMS.eager(own)

        def call() -> Any:
            (y,) = run()
            own["x"].copy_(y).mul_(own["x"])
            return (y,)

        return call

    assert measure(prepare).outcome == "failed"


def test_inputs_stay_through_later_calls(measure: Measure) -> None:
    def prepare(inputs: Any) -> Callable[[], Any]:
        run, calls = RMS.eager(inputs), iter(range(10**6))

        def call() -> Any:
            outputs = run()
            if next(calls) > 1:
                inputs["weight"].zero_()
            return outputs

        return call

    row = measure(prepare)
    assert row.outcome == "error"
    assert "rms_norm:x changed weight" in row.reason


def test_later_calls_that_differ_within_the_tolerance_pass(measure: Measure) -> None:
    def next_up(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        y = outputs[0].clone()
        y.view(torch.int32)[0, 0] += 1
        return (y,)

    row = measure(from_call(3, next_up))
    assert (row.outcome, row.deterministic) == ("passed", False)


def test_running_statistics_may_go_on_but_not_to_infinity(measure: Measure) -> None:
    def lost(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return outputs[0], torch.full_like(outputs[1], math.inf), outputs[2]

    row = measure(BATCH.eager, BATCH, "2x4x5x5", 3)
    assert (row.outcome, row.deterministic) == ("passed", True)
    row = measure(from_call(3, lost, BATCH), BATCH, "2x4x5x5")
    assert row.outcome == "failed"
    assert "running_mean is NaN or Inf" in row.reason


def test_few_of_many_calls_that_differ_are_judged(
    make_manager: MakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = NormKernel(provider="x", operation=RMS, prepare=RMS.eager)
    engine = Engine(make_manager(formats=FORMATS, norm_kernels=[kernel]), Settings())
    posed = engine.norms.posed(RMS, (6, 40), "float32", "weight")
    calls = NormCalls(kernel, posed, NormRow())
    calls.checked()
    judged: list[object] = []

    def judge(*given: object) -> str:
        judged.append(given)
        return ""

    monkeypatch.setattr("qbench_suite.engine.norm_calls.judge_outputs", judge)
    inputs, off = posed.copied_inputs(), (posed.own[0] + 1,)
    calls.hold((inputs, off) for _ in range(100))
    assert len(judged) == 8


def test_an_output_computed_before_is_too_fast(measure: Measure) -> None:
    """Of a size whose copy takes far longer than a call."""

    def prepare(inputs: Any) -> Callable[[], Any]:
        outputs = RMS.eager(inputs)()
        return lambda: outputs

    row = measure(prepare, shape="512x1024", rounds=3)
    assert row.outcome == "failed"
    assert "8 times a copy of as many bytes in a cache" in row.reason


def test_outputs_in_another_memory_order_are_errors(measure: Measure) -> None:
    nhwc = NORM_OPERATIONS["group_norm_nhwc"]

    def prepare(inputs: Any) -> Callable[[], Any]:
        run = nhwc.eager(inputs)
        return lambda: tuple(output.contiguous() for output in run())

    row = measure(prepare, nhwc, "2x32x3x5")
    assert row.outcome == "error"
    assert (
        "y of (2, 32, 3, 5) has strides (480, 1, 160, 32) there, and group_norm_nhwc:x"
        in row.reason
    )
    assert "gave it (480, 15, 5, 1)" in row.reason
    assert measure(nhwc.eager, nhwc, "2x32x3x5").outcome == "passed"
    one = measure(prepare, nhwc, "2x256x1x1")  # one pixel lies the same in either
    assert one.outcome == "passed"


def test_a_shape_beyond_the_memory_is_told_as_such(measure: Measure) -> None:
    def full(inputs: Any) -> Callable[[], Any]:
        raise torch.OutOfMemoryError("full")

    row = measure(full)
    assert row.outcome == "error"
    assert (
        "6x40 in float32 is too large for cpu. Ask for smaller --qbench-norm-shapes" in row.reason
    )
    assert "model" not in row.reason
