"""Norm cases: errors as NumPy has them, gates, mistakes of plugins, and times on a device made up."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench_suite import (
    NORM_OPERATIONS,
    FloatFormat,
    IdentityFormat,
    Manager,
    NormKernel,
    NormOperation,
)
from qbench_suite.engine import Engine, NormCase, Settings
from qbench_suite.engine.norm_problem import on_cpu_if_full
from qbench_suite.results import NormOutputRow, NormRow
from qbench_suite.timing import RoundTimer, Samples

MakeManager = Callable[..., Manager]
MakeEngine = Callable[..., Engine]
FORMATS = (
    IdentityFormat(name="fp32"),
    FloatFormat(name="fp16", exponent_bits=5, mantissa_bits=10),
    FloatFormat(name="fp8_e4m3", exponent_bits=4, mantissa_bits=3),
)
RMS, LAYER = NORM_OPERATIONS["rms_norm"], NORM_OPERATIONS["layer_norm"]
CODES = NORM_OPERATIONS["rms_norm_fp8_e4m3_chunk128"]
CPU = torch.device("cpu")
Change = Callable[[tuple[Any, ...]], Any]


def untimed(function: Callable[[], object], *_: object) -> Samples:
    return Samples(())


def changing(operation: NormOperation, change: Change) -> Callable[[Any], Any]:
    """A ``prepare`` whose calls give torch's own outputs as ``change`` leaves them."""

    def prepare(inputs: Any) -> Callable[[], Any]:
        run = operation.eager(inputs)
        return lambda: change(run())

    return prepare


@pytest.fixture
def make_engine(make_manager: MakeManager) -> MakeEngine:
    """``make_engine(operation, prepare, **fields of the kernel)``; the provider is called x."""

    def make(
        operation: NormOperation, prepare: Any = None, *, seed: int = 0, **more: Any
    ) -> Engine:
        kernel = NormKernel(
            provider="x", operation=operation, prepare=prepare or operation.eager, **more
        )
        manager = make_manager(formats=FORMATS, norm_kernels=[kernel])
        return Engine(manager, Settings(seed=seed))

    return make


def measure(
    engine: Engine, dtype: str = "float32", shape: str = "6x40", timer: Any = untimed
) -> NormRow:
    (kernel,) = engine.manager.norm_kernels
    quantized = kernel.operation.quantized
    format = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}[dtype]
    case = NormCase("x", kernel.operation.name, shape, dtype, quantized[0] if quantized else format)
    row = engine.run(case, timer)
    assert isinstance(row, NormRow)
    return row


def outputs_of(row: NormRow) -> dict[str, NormOutputRow]:
    assert all(isinstance(detail, NormOutputRow) for detail in row.details)
    return {detail.output: detail for detail in row.details if isinstance(detail, NormOutputRow)}


def test_errors_are_those_that_numpy_finds(make_engine: MakeEngine) -> None:
    """float16: y as torch's own, but one element by three ulps above."""

    def off(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        y = outputs[0].clone()
        y.view(torch.int16)[1, 2] += 3
        return (y,)

    engine = make_engine(LAYER, changing(LAYER, off))
    row = measure(engine, "float16")
    posed = engine.norms.posed(LAYER, (6, 40), "float16", "weight_bias")
    x, weight, bias = (posed.inputs[n].double().numpy() for n in ("x", "weight", "bias"))
    centred = x - x.mean(-1, keepdims=True)
    exact = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias
    size = np.maximum(np.abs(exact), np.sqrt((exact**2).mean()))
    ulp = 2.0 ** (np.floor(np.log2(size)) - 10)
    given = off(LAYER.eager(posed.inputs)())[0].double().numpy()
    assert row.max_ulp == pytest.approx((np.abs(given - exact) / ulp).max())
    own = LAYER.eager(posed.inputs)()[0].double().numpy()
    assert row.torch_max_ulp == pytest.approx((np.abs(own - exact) / ulp).max())
    assert row.ulp_over_torch == pytest.approx(row.max_ulp)  # torch's own is within one
    assert (row.worst_output, row.tolerance_ulp, row.affine) == ("y", 1.0, "weight_bias")
    assert row.outcome == "failed"
    assert (
        "y is within 1 ulp of float16 of the float64 result; layer_norm:x is off by" in row.reason
    )


def test_row_says_what_was_measured(make_engine: MakeEngine) -> None:
    row = measure(make_engine(RMS), "bfloat16", timer=RoundTimer(3))
    assert (row.outcome, row.reason) == ("passed", "")
    assert (row.provider, row.operation, row.shape, row.dtype, row.direction) == (
        "x", "rms_norm", "6x40", "bfloat16", "forward",
    )  # fmt: skip
    assert (row.case, row.format, row.kernel_owner) == (
        "x-rms_norm-6x40-bfloat16", "bf16", "guest (local)",
    )  # fmt: skip
    assert row.bytes_moved == 2 * (240 + 240 + 40)
    assert (row.method, row.cache, row.input_sets, row.rounds) == ("wall_clock", "warm", 1, 3)
    assert (row.deterministic, row.nonfinite_count, row.ulp_over_torch) == (True, 0, row.max_ulp)
    assert row.latency_ms
    assert row.torch_latency_ms
    assert row.gb_per_s == pytest.approx(row.bytes_moved / row.latency_ms * 1e-6)
    assert row.copy_gb_per_s
    assert row.speedup_torch
    assert row.copy_share
    assert (row.peak_gb_per_s, row.warm_latency_ms, row.host_overhead_us) == (None, None, None)


def test_ratios_are_medians_of_the_rounds(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = {"torch": [8.0, 2.0, 9.0], "copy": [1.0, 3.0, 3.0]}
    monkeypatch.setattr(
        "qbench_suite.engine.norm_timing.time_beside",
        lambda *_: (Samples((2.0, 1.0, 3.0)), beside),
    )
    row = measure(make_engine(RMS))
    assert (row.speedup_torch, row.copy_share) == (3.0, 1.0)  # of 4, 2, 3 and of ½, 3, 1
    assert (row.latency_ms, row.torch_latency_ms) == (2000.0, 8000.0)
    assert row.copy_gb_per_s == pytest.approx((row.bytes_moved or 0) / 3e9)


def test_untimed_row_has_errors_and_no_latency(make_engine: MakeEngine) -> None:
    row = measure(make_engine(RMS))
    assert row.outcome == "passed"
    assert row.max_ulp is not None
    assert (row.latency_ms, row.speedup_torch, row.gb_per_s, row.copy_share) == (None,) * 4


def test_each_output_is_held_to_its_own_dtype(make_engine: MakeEngine) -> None:
    """Of a bfloat16 batch norm the statistics are float32, with the tolerance of that."""
    operation = NORM_OPERATIONS["batch_norm"]
    tolerance = {"float32": 300.0, "bfloat16": 7.0}
    row = measure(make_engine(operation, tolerance_ulps=tolerance), "bfloat16", "2x4x5x5")
    found = outputs_of(row)
    assert {name: (d.dtype, d.tolerance_ulp) for name, d in found.items()} == {
        "y": ("bfloat16", 7.0), "running_mean": ("float32", 300.0), "running_var": ("float32", 300.0),
    }  # fmt: skip
    assert row.outcome == "passed", row.reason
    assert {detail.case for detail in row.details if isinstance(detail, NormOutputRow)} == {
        row.case
    }


def test_the_worst_output_is_the_one_nearest_its_tolerance(make_engine: MakeEngine) -> None:
    operation = NORM_OPERATIONS["batch_norm"]

    def off(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        y, mean, var = (output.clone() for output in outputs)
        y.view(torch.int16)[0, 0] += 5
        mean.view(torch.int32)[0] += 90
        return y, mean, var

    tolerance = {"float32": 300.0, "bfloat16": 7.0}
    engine = make_engine(operation, changing(operation, off), tolerance_ulps=tolerance)
    row = measure(engine, "bfloat16", "2x4x5x5")
    assert (row.worst_output, row.tolerance_ulp) == ("y", 7.0)
    assert 4 < (row.max_ulp or 0) < 7
    assert (outputs_of(row)["running_mean"].max_ulp or 0) > (row.max_ulp or 0)


def test_gradients_of_missing_tensors_are_none_of_its_outputs(make_engine: MakeEngine) -> None:
    operation = NORM_OPERATIONS["layer_norm_backward"]
    tolerance = dict.fromkeys(("float32",), 99.0)
    row = measure(make_engine(operation, affine=("weight",), tolerance_ulps=tolerance))
    assert (row.affine, row.outcome, [*outputs_of(row)]) == ("weight", "passed", ["dx", "dweight"])
    assert row.direction == "backward"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_outputs_that_are_not_finite_fail(make_engine: MakeEngine, bad: float) -> None:
    def spoil(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        y = outputs[0].clone()
        y[0, :2] = bad
        return (y,)

    row = measure(make_engine(RMS, changing(RMS, spoil)))
    assert (row.outcome, row.nonfinite_count) == ("failed", 2)
    assert "in 2 elements that of rms_norm:x is not so" in row.reason


def stepped(count: int, by: int) -> Change:
    """``count`` codes moved by so many steps, away from the ends of the format."""

    def change(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        codes, scales = outputs[0].clone(), outputs[1]
        bits = codes.view(torch.uint8).view(-1)
        inner = ((bits & 0x7F) < 0x60).nonzero()[:count, 0]
        bits[inner] += by
        return codes, scales

    return change


@pytest.mark.parametrize(
    ("change", "off", "far", "outcome"),
    [
        (stepped(0, 1), 0, 0, "passed"),
        (stepped(2, 1), 2, 0, "passed"),
        (stepped(3, 1), 3, 0, "failed"),
        (stepped(1, 2), 1, 1, "failed"),
    ],
)
def test_codes_may_be_next_to_those_of_float64_one_in_ten_thousand(
    make_engine: MakeEngine, change: Change, off: int, far: int, outcome: str
) -> None:
    row = measure(make_engine(CODES, changing(CODES, change)), shape="80x300")
    detail = outputs_of(row)["codes"]
    assert detail.codes_off == pytest.approx(off / 24000)
    assert (detail.codes_far, row.outcome, detail.max_ulp) == (far, outcome, None)
    assert (row.format, row.codes_off) == ("fp8_e4m3", detail.codes_off)
    if outcome == "failed":
        assert "Codes are those of the float64 result" in row.reason


def test_both_zeros_are_one_code_and_nan_is_none_of_them(make_engine: MakeEngine) -> None:
    def negate_zeros(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        codes = outputs[0].clone()
        bits = codes.view(torch.uint8)
        bits[bits == 0] = 0x80
        return codes, outputs[1]

    def spoil(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        codes = outputs[0].clone()
        bits = codes.view(torch.uint8)
        bits[bits == 0x7E] = 0x7F  # the largest, 448, becomes the NaN next to it
        return codes, outputs[1]

    assert measure(make_engine(CODES, changing(CODES, negate_zeros)), shape="80x300").codes_off == 0
    row = measure(make_engine(CODES, changing(CODES, spoil)), shape="80x300")
    assert row.outcome == "failed"
    assert row.nonfinite_count


def test_scales_are_held_to_ulps_of_the_input(make_engine: MakeEngine) -> None:
    """A step of bfloat16 in what is quantized moves a float32 scale by 65,536 of its ulps."""

    def off(factor: float) -> Change:
        return lambda outputs: (outputs[0], outputs[1] * factor)

    near = measure(make_engine(CODES, changing(CODES, off(1 + 2**-9))), "bfloat16", "80x300")
    assert (near.outcome, near.worst_output) == ("passed", "scales")
    assert outputs_of(near)["scales"].dtype == "bfloat16"
    far = measure(make_engine(CODES, changing(CODES, off(1 + 2**-6))), "bfloat16", "80x300")
    assert far.outcome == "failed"


def other_binade(chunks: int, factor: float, by: float = 1.0) -> Change:
    """So many chunks with another scale of powers of two, their codes those of it, or ``by`` off."""

    def change(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        codes, scales = outputs[0].clone(), outputs[1].clone()
        scales[0, :chunks] *= factor
        values = codes[0, : 32 * chunks].float() / factor * by
        codes[0, : 32 * chunks] = values.clamp(-448, 448).to(codes.dtype)
        return codes, scales

    return change


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (other_binade(1, 2), "passed"),
        (other_binade(2, 2), "failed"),  # of 800 chunks one may be so
        (other_binade(1, 2, 0.5), "failed"),
        (other_binade(1, 4), "failed"),
    ],
    ids=["one", "two", "other values", "two binades"],
)
def test_at_a_power_of_two_either_scale_is_right(
    make_engine: MakeEngine, change: Change, outcome: str
) -> None:
    operation = NORM_OPERATIONS["rms_norm_fp8_e4m3_mx32"]
    row = measure(make_engine(operation, changing(operation, change)), shape="80x320")
    assert row.outcome == outcome
    assert (row.codes_off == 0) == (outcome == "passed")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda outputs: (outputs[0][:, :3],), r"\(6, 40\) torch.float32 on cpu; rms_norm:x gave \(6, 3\)"),
        (lambda outputs: (outputs[0].double(),), r"gave \(6, 40\) torch.float64 on cpu"),
        (lambda outputs: (*outputs, outputs[0]), r"on cpu; \(6, 40\) torch.float32 on cpu. Mend"),
        (lambda outputs: (), "gave . Mend"),
        (lambda outputs: None, "gave NoneType"),
    ],
)  # fmt: skip
def test_outputs_of_another_shape_dtype_or_number_are_errors(
    make_engine: MakeEngine, change: Change, words: str
) -> None:
    row = measure(make_engine(RMS, changing(RMS, change)))
    assert row.outcome == "error"
    assert row.reason.startswith("A norm kernel gives y as torch's own operations do")
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(row.reason)


def test_a_tensor_by_itself_is_its_only_output(make_engine: MakeEngine) -> None:
    assert measure(make_engine(RMS, changing(RMS, lambda outputs: outputs[0]))).outcome == "passed"


def test_a_kernel_that_writes_into_its_inputs_is_an_error(make_engine: MakeEngine) -> None:
    def prepare(inputs: Any) -> Callable[[], Any]:
        def run() -> tuple[Tensor, ...]:
            outputs = RMS.eager(inputs)()
            inputs["x"][0, 0] += 1
            return outputs

        return run

    row = measure(make_engine(RMS, prepare))
    assert row.outcome == "error"
    assert "leaves its inputs as they are; rms_norm:x changed x" in row.reason


def test_a_kernel_that_differs_from_call_to_call_is_told(make_engine: MakeEngine) -> None:
    calls = iter(range(100))

    def flip(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        y = outputs[0].clone()
        y.view(torch.int32)[0, 0] += next(calls) % 2
        return (y,)

    row = measure(make_engine(RMS, changing(RMS, flip)))
    assert (row.deterministic, row.outcome) == (False, "passed")


def test_running_statistics_do_not_look_like_chance(make_engine: MakeEngine) -> None:
    """Torch's go on from call to call."""
    operation = NORM_OPERATIONS["batch_norm"]
    row = measure(
        make_engine(operation, tolerance_ulps={"float32": 300.0}),
        "float32",
        "2x4x5x5",
        RoundTimer(2),
    )
    assert (row.deterministic, row.outcome) == (True, "passed"), row.reason


def test_a_problem_is_posed_once_for_all_who_solve_it(make_engine: MakeEngine) -> None:
    posed: list[int] = []

    def reference(inputs: Any) -> Any:
        posed.append(1)
        return RMS.reference(inputs)

    engine = make_engine(dataclasses.replace(RMS, reference=reference))
    measure(engine)
    measure(engine)
    assert len(posed) == 1
    measure(engine, "bfloat16")
    assert len(posed) == 2


def test_inputs_depend_on_the_seed_and_not_on_what_ran_before(make_engine: MakeEngine) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    alone = measure(make_engine(RMS)).max_ulp
    assert torch.equal(torch.rand(3), expected), "the global generator is left alone"
    engine = make_engine(RMS)
    measure(engine, shape="9x9")
    assert measure(engine).max_ulp == alone
    assert measure(make_engine(RMS, seed=1)).max_ulp != alone


def test_what_cannot_run_here_is_no_case(make_engine: MakeEngine) -> None:
    engine = make_engine(
        RMS,
        unavailable=lambda device: f"no {device}",
        misfit=lambda shape, dtype: f"{shape} {dtype}",
    )
    case = NormCase("x", "rms_norm", "6x40", "float32", "fp32")
    assert engine.unavailable(case) == "no cpu"
    assert "rms_norm:x does not: no cpu" in measure(engine).reason
    unfit = make_engine(RMS, misfit=lambda shape, dtype: f"{shape} {dtype}")
    assert unfit.unavailable(case) == "(6, 40) float32"
    assert "does not take 6x40 in float32: (6, 40) float32" in measure(unfit).reason
    assert make_engine(RMS).unavailable(case) == ""


def test_a_device_without_room_leaves_the_float64_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def crowded(*tensors: Tensor) -> list[str]:
        devices = [tensor.device.type for tensor in tensors]
        if "meta" in devices:
            raise torch.OutOfMemoryError("full")
        return devices

    def full(tensor: Tensor) -> None:
        raise torch.OutOfMemoryError("full")

    here, there = torch.ones(2), torch.empty(2, device="meta")
    monkeypatch.setattr(Tensor, "cpu", lambda self: here)
    assert on_cpu_if_full(crowded, there, there) == ["cpu", "cpu"]
    assert on_cpu_if_full(crowded, here, there) == ["cpu", "cpu"]
    with pytest.raises(torch.OutOfMemoryError):
        on_cpu_if_full(full, here)
