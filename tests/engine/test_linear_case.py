"""Linear cases: rows as NumPy has them, float layers beside, and mistakes of plugins kept apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing._internal.two_tensor import TwoTensor

from qbench_suite import LinearEntry, Manager
from qbench_suite.engine import Engine, LinearCase, Settings
from qbench_suite.results import Gates, LinearRow
from qbench_suite.timing import RoundTimer, Samples

MakeManager = Callable[..., Manager]
Build = Callable[[nn.Linear], nn.Module]


class Coded(nn.Module):
    """int8 weights with one scale, made float in every forward."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.float()
        self.register_buffer("scale", weight.abs().max() / 127)
        self.register_buffer("codes", (weight / self.scale).round().char())

    def kernel(self, rows: int) -> str:
        return "one" if rows == 1 else "many"

    def dequantize(self) -> Tensor:
        return torch.as_tensor(self.codes) * torch.as_tensor(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dequantize().to(x.dtype))


class Wrong(nn.Module):
    """What ``make`` makes of the output."""

    def __init__(self, linear: nn.Linear, make: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.make = linear, make

    def forward(self, x: Tensor) -> Tensor:
        return self.make(self.linear(x))


def untimed(function: Callable[[], object], before: Callable[[], object] | None = None) -> Samples:
    return Samples(())


@pytest.fixture
def make_engine(make_manager: MakeManager) -> Callable[..., Engine]:
    """``make_engine(build, gates=…, seed=…, **fields of the entry)``; the entry is called x8."""

    def make(build: Build, *, gates: Gates | None = None, seed: int = 0, **more: Any) -> Engine:
        entry = LinearEntry(name="x8", build=build, format="int8", default=True, **more)
        return Engine(make_manager(linears=[entry]), Settings(seed=seed), gates or Gates([]))

    return make


def measure(
    engine: Engine, rows: int = 5, dtype: str = "float32", size: str = "24x40", timer: Any = untimed
) -> LinearRow:
    row = engine.run(LinearCase("x8", dtype, size, rows, "int8"), timer)
    assert isinstance(row, LinearRow)
    return row


def test_row_is_what_numpy_computes(make_engine: Callable[..., Engine]) -> None:
    row = measure(make_engine(Coded), timer=RoundTimer(3))
    weight = torch.empty(24, 40).normal_(0, 40**-0.5, generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, 40, generator=torch.Generator().manual_seed(1)).double().numpy()
    float_weight = weight.double().numpy()
    scale = weight.abs().max().numpy() / np.float32(127)
    stored = np.rint(weight.numpy() / scale).astype(np.float64) * float(scale)
    reference, output = x @ float_weight.T, x @ stored.T
    noise = ((output - reference) ** 2).sum()
    assert row.outcome == "passed", row.reason
    assert row.sqnr_db == pytest.approx(10 * math.log10((reference**2).sum() / noise), abs=0.01)
    assert row.mse == pytest.approx(noise / reference.size, rel=1e-3)
    assert row.max_abs_err == pytest.approx(np.abs(output - reference).max(), rel=1e-3)
    weight_noise = ((stored - float_weight) ** 2).sum()
    expected = 10 * math.log10((float_weight**2).sum() / weight_noise)
    assert row.weight_sqnr_db == pytest.approx(expected, abs=0.01)
    assert row.bf16_sqnr_db is not None
    assert 40 < row.bf16_sqnr_db < 60
    assert (row.rows, row.in_features, row.out_features, row.kernel) == (5, 40, 24, "many")
    assert (row.weight_bytes, row.fp32_weight_bytes) == (24 * 40 + 4, 24 * 40 * 4)
    assert row.compression == pytest.approx(3840 / 964)
    assert row.bytes_moved == 964 + 5 * 40 * 4 + 5 * 24 * 4
    assert row.peak_bytes is not None
    assert row.peak_bytes >= 24 * 40 * 4 + 5 * 24 * 4, "the float weight and the output"
    assert (row.format, row.format_owner, row.entry_owner) == (
        "int8", "world (local)", "guest (local)",
    )  # fmt: skip


def test_ratios_are_of_the_rounds(make_engine: Callable[..., Engine]) -> None:
    row = measure(make_engine(Coded), timer=RoundTimer(5))
    assert row.rounds == 5
    assert row.threads == torch.get_num_threads()
    assert row.latency_ms
    assert row.fp32_latency_ms
    assert row.bf16_latency_ms
    assert row.speedup_fp32
    assert row.speedup_bf16
    assert row.gb_per_s == pytest.approx((row.bytes_moved or 0) / row.latency_ms * 1e-6)


def test_speedups_are_medians_of_ratios_not_ratios_of_medians(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"float32": [8.0, 2.0, 9.0], "bfloat16": [4.0, 6.0, 3.0]}
    samples = Samples((2.0, 1.0, 3.0))
    monkeypatch.setattr(
        "qbench_suite.engine.linear_case.time_beside", lambda *_: (samples, seconds)
    )
    row = measure(make_engine(Coded), timer=RoundTimer(3))
    assert (row.speedup_fp32, row.speedup_bf16) == (3.0, 2.0)  # of 4, 2, 3 and of 2, 6, 1
    assert (row.fp32_latency_ms, row.bf16_latency_ms) == (8000.0, 4000.0)
    assert row.latency_ms == 2000.0


def test_untimed_row_has_errors_and_no_latency(make_engine: Callable[..., Engine]) -> None:
    row = measure(make_engine(Coded))
    assert row.outcome == "passed"
    assert row.sqnr_db is not None
    assert (row.latency_ms, row.speedup_fp32, row.fp32_latency_ms, row.gb_per_s) == (None,) * 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_inputs_and_weights_come_in_the_dtype_of_the_case(
    make_engine: Callable[..., Engine], dtype: str
) -> None:
    seen: list[torch.dtype] = []

    def build(linear: nn.Linear) -> nn.Module:
        seen.append(linear.weight.dtype)
        return Wrong(linear, lambda y: seen.append(y.dtype) or y)  # type: ignore[func-returns-value]

    row = measure(make_engine(build), dtype=dtype)
    assert row.outcome == "passed", row.reason
    assert set(seen) == {getattr(torch, dtype)}
    assert row.weight_sqnr_db is None
    assert row.kernel == ""
    if dtype == "float32":
        assert row.sqnr_db == math.inf
    elif dtype == "bfloat16":
        assert row.sqnr_db == row.bf16_sqnr_db


def test_a_layer_is_built_once_for_all_rows_of_a_size(make_engine: Callable[..., Engine]) -> None:
    built: list[tuple[int, ...]] = []

    def build(linear: nn.Linear) -> nn.Module:
        built.append(tuple(linear.weight.shape))
        return Coded(linear)

    engine = make_engine(build)
    for rows in (1, 2, 3):
        measure(engine, rows)
    measure(engine, 1, size="8x40")
    assert built == [(24, 40), (8, 40)]


def test_weights_and_inputs_depend_on_the_seed_and_not_on_what_ran_before(
    make_engine: Callable[..., Engine],
) -> None:
    alone = measure(make_engine(Coded), 3)
    engine = make_engine(Coded)
    torch.manual_seed(99)
    measure(engine, 7, size="6x6")
    after = measure(engine, 3)
    assert (after.mse, after.sqnr_db) == (alone.mse, alone.sqnr_db)
    assert measure(make_engine(Coded, seed=1), 3).mse != alone.mse


def test_the_global_generator_is_left_alone(make_engine: Callable[..., Engine]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    measure(make_engine(Coded))
    assert torch.equal(torch.rand(3), expected)


def test_bytes_of_a_tensor_made_of_others_are_theirs(make_engine: Callable[..., Engine]) -> None:
    def build(linear: nn.Linear) -> nn.Module:
        layer = Wrong(linear, lambda y: y)
        codes = torch.zeros(24, 40, dtype=torch.int8)
        layer.register_buffer("pair", TwoTensor(codes, codes.clone()))
        return layer

    assert measure(make_engine(build)).weight_bytes == 24 * 40 * (4 + 1 + 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda y: y[:, :3], r"\(5, 3\) torch.float32 where \(5, 24\) torch.float32 was due"),
        (lambda y: y.double(), r"gave \(5, 24\) torch.float64"),
    ],
)
def test_output_of_another_shape_or_dtype_is_an_error(
    make_engine: Callable[..., Engine], make: Callable[[Tensor], Tensor], words: str
) -> None:
    row = measure(make_engine(lambda linear: Wrong(linear, make)))
    assert row.outcome == "error"
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(row.reason)


def test_outputs_that_are_not_finite_fail(make_engine: Callable[..., Engine]) -> None:
    def spoil(y: Tensor) -> Tensor:
        y[0, :2] = math.nan
        return y

    row = measure(make_engine(lambda linear: Wrong(linear, spoil)))
    assert (row.outcome, row.nonfinite_count) == ("failed", 2)
    assert "2 of x8 are NaN or Inf" in row.reason


def test_gate_is_of_format_dtype_and_entry(
    make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    table = tmp_path / "gates.csv"
    table.write_text("table,format,mode,what,min_sqnr_db\nlinears,int8,float32,x*,99\n")
    engine = make_engine(Coded, gates=Gates.read(table))
    row = measure(engine)
    assert (row.outcome, row.min_sqnr_db) == ("failed", 99.0)
    assert "at least 99 dB; x8 has" in row.reason
    other = measure(engine, dtype="bfloat16")
    assert (other.outcome, other.min_sqnr_db) == ("passed", None)


@pytest.mark.parametrize(
    ("format", "dtype", "least"),
    [("int8", "bfloat16", 37.0), ("int4", "float32", 14.0), ("fp8_e4m3", "float32", None)],
)
def test_gates_that_ship_know_linear_layers(format: str, dtype: str, least: float | None) -> None:
    assert Gates.read().min_sqnr_db("linears", format, dtype, "w8a16") == least


def test_a_layer_that_this_machine_has_not_is_told_apart(
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine(Coded, unavailable=lambda device: f"no library for {device}")
    case = LinearCase("x8", "float32", "24x40", 5, "int8")
    assert engine.unavailable(case) == "no library for cpu"
    row = measure(engine)
    assert row.outcome == "error"
    assert "x8 does not: no library for cpu. Install" in row.reason
    assert make_engine(Coded).unavailable(case) == ""


def test_what_a_plugin_raises_names_it(make_engine: Callable[..., Engine]) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("no such kernel")

    for engine in (make_engine(fail), make_engine(Coded, unavailable=fail)):
        assert engine.unavailable(LinearCase("x8", "float32", "24x40", 5, "int8")) == ""
        row = measure(engine)
        assert row.outcome == "error"
        assert "raised RuntimeError: no such kernel" in row.reason
        assert "x8 is of guest (local)" in row.reason
