"""Whole cases: rows as an independent computation has them, and mistakes of plugins kept apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench_suite import (
    CodebookFormat,
    DatasetEntry,
    DatasetError,
    Manager,
    ModeError,
    NameNotFoundError,
    Role,
)
from qbench_suite.engine import (
    Engine,
    FormatCase,
    LayerCase,
    QuantizerCase,
    Selection,
    Settings,
)
from qbench_suite.engine.engine import Case
from qbench_suite.results import FormatRow, Gates, LayerRow, QuantizerRow
from qbench_suite.timing import RoundTimer, Samples

MakeManager = Callable[..., Manager]
MakeEngine = Callable[..., Engine]
TIMER = RoundTimer(rounds=3, warmup=1)
SIGNS = (-1.0, 0.0, 1.0)


def untimed(function: Callable[[], object], before: Callable[[], object] | None = None) -> Samples:
    return Samples(())


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.ReLU(inplace=True), nn.Linear(6, 4))


@pytest.fixture
def make_engine(make_manager: MakeManager) -> MakeEngine:
    """``make_engine(models, settings=…, gates=…, formats=…)``."""

    def make(
        models: Mapping[str, Callable[[], nn.Module]] | None = None,
        *,
        gates: Gates | None = None,
        settings: Mapping[str, Any] | None = None,
        **entries: Any,
    ) -> Engine:
        chosen = Settings(**{"batch": 8, "quantizer_shape": (64, 48), **(settings or {})})
        return Engine(make_manager(models or {"m": tiny}, **entries), chosen, gates)

    return make


def layer_row(engine: Engine, *parts: str, timer: Any = untimed) -> LayerRow:
    row = engine.run(LayerCase(*parts), timer)
    assert isinstance(row, LayerRow)
    return row


def int8(x: np.ndarray) -> np.ndarray:
    """int8 with one scale, in NumPy float32."""
    x = x.astype(np.float32)
    scale = np.float32(np.abs(x).max()) / np.float32(127)
    return np.clip(np.rint(x / scale), -127, 127).astype(np.float32) * scale


def test_row_of_a_layer_is_what_numpy_computes(make_engine: MakeEngine) -> None:
    engine = make_engine()
    row = layer_row(engine, "m", "int8", "tensor", "1", timer=TIMER)
    model = tiny()
    x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)).flatten(1).numpy()
    weight, bias = (p.detach().double().numpy() for p in model[1].parameters())  # type: ignore[index]
    reference = x @ weight.T + bias
    output = int8(x).astype(np.float64) @ int8(weight).astype(np.float64).T + bias
    noise = ((output - reference) ** 2).sum()
    assert row.outcome == "passed", row.reason
    assert row.mse == pytest.approx(noise / reference.size, rel=1e-3)
    assert row.sqnr_db == pytest.approx(10 * math.log10((reference**2).sum() / noise), abs=0.01)
    assert row.cosine == pytest.approx(1, abs=1e-3)
    assert row.max_abs_err == pytest.approx(np.abs(output - reference).max(), rel=1e-2)
    assert (row.input_min, row.input_max) == (float(x.min()), float(x.max()))
    assert (row.compliant, row.violations, row.violation) == (True, 0, "")
    assert (row.weight_bits_per_value, row.input_bits_per_value) == (
        8 + 32 / weight.size,
        8 + 32 / x.size,
    )
    assert (row.layer_type, row.quant_type) == ("Linear", "TinyLinear")
    assert row.roles == "weight=int8-tensor;input=int8-tensor"
    assert (row.dataset, row.batch, row.rounds) == ("random", 8, 3)
    assert row.format_owner == "world (local)"
    assert row.latency_ms is not None
    assert row.fp32_latency_ms is not None
    assert row.slowdown is not None
    assert row.latency_ms > 0 < row.fp32_latency_ms
    assert row.seconds is not None
    assert row.seconds * 1e3 > row.latency_ms


class ByName(nn.Module):
    """Gives its layer, which works in place, the input by name."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(input=x.clone())
        return y


def test_timing_leaves_the_reference_as_it_is(
    make_engine: MakeEngine, make_manager: MakeManager
) -> None:
    base = make_manager().layers.get("TinyReLU").layer

    def forward(self: nn.Module, **arguments: Tensor) -> Tensor:
        y: Tensor = base.forward(self, *arguments.values())
        return y

    names = {"float_types": ("torch.nn.ReLU6",), "forward": forward}
    engine = make_engine({"m": ByName}, layers=[type("ANamedReLU", (base,), names)])
    rows = [layer_row(engine, "m", "int8", "tensor", "act", timer=TIMER) for _ in range(2)]
    assert rows[0].outcome == "passed", rows[0].reason
    assert rows[0].to_json()["input_min"] == rows[1].to_json()["input_min"] < 0
    assert rows[0].mse == rows[1].mse
    assert float(engine.references.get(engine.pool.get("m"), "act").kwargs["input"].min()) < 0


def test_every_case_of_the_grid_passes_and_runs_the_model_once(make_engine: MakeEngine) -> None:
    engine = make_engine({"m": tiny, "n": tiny})
    for case in engine.layer_cases(Selection(modes="*")):
        row = engine.run(case, untimed)
        assert row.outcome == "passed", row.reason
        assert row.case == case.id
    assert set(engine.references.passes.values()) == {1}
    assert set(engine.pool.loads.values()) == {1}


def test_rows_do_not_depend_on_the_order_of_cases(make_engine: MakeEngine) -> None:
    def measured(backwards: bool, cache: int) -> dict[str, Any]:
        engine = make_engine(settings={"cache_bytes": cache})
        cases = engine.layer_cases(Selection())
        rows = [engine.run(c, untimed).to_json() for c in (reversed(cases) if backwards else cases)]
        return {row["case"]: row | {"seconds": 0} for row in rows}

    assert measured(False, 1 << 20) == measured(True, 1 << 20) == measured(True, 2)


@pytest.mark.parametrize(
    "case",
    [
        LayerCase("m", "int8", "tensor", "1"),
        FormatCase("int8", "normal"),
        QuantizerCase("int8", "tensor"),
    ],
)
def test_nothing_is_timed_where_the_timer_gives_no_samples(
    make_engine: MakeEngine, case: Case
) -> None:
    row = make_engine().run(case, untimed)
    assert row.outcome == "passed", row.reason
    assert (row.latency_ms, row.latency_min_ms, row.latency_iqr_ms) == (None, None, None)
    assert row.rounds == 0
    for name in ("fp32_latency_ms", "slowdown", "copy_ms", "eager_ms", "gb_per_s"):
        assert getattr(row, name, None) is None


def test_batch_of_the_row_is_what_the_dataset_had(make_engine: MakeEngine) -> None:
    images = [(torch.rand(3, 4, 4), 0)] * 5
    dataset = DatasetEntry(name="five", load=lambda split: images, num_classes=2)  # type: ignore[arg-type,return-value]
    engine = make_engine(datasets=[dataset], settings={"dataset": "five"})
    row = layer_row(engine, "m", "int8", "tensor", "1")
    assert (row.dataset, row.batch) == ("five", 5)


@dataclass(frozen=True, kw_only=True)
class Faulty(CodebookFormat):
    """A format whose ``round`` has one of several faults."""

    fault: str = ""

    def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
        right = super().round(x)
        match self.fault:
            case "raises":
                raise ZeroDivisionError("round divides by zero")
            case "shape":
                return right.flatten()[:2]
            case "scalar":
                return right.amax()
            case "off_grid":
                return right * 0.75
            case "nan":
                return torch.where(right == 1, torch.nan, right)
            case "drifts":
                return torch.where(right == 0, 1.0, right - 1)
        return right


def faulty(fault: str) -> Faulty:
    return Faulty(name=f"faulty_{fault}", bits=2, values=SIGNS, fault=fault)


@pytest.mark.parametrize("fault", ["raises", "shape", "off_grid", "nan", "drifts"])
@pytest.mark.parametrize("table", ["layers", "formats", "quantizers"])
def test_faulty_format_gives_a_row_that_names_its_plugin(
    make_engine: MakeEngine, fault: str, table: str
) -> None:
    engine = make_engine(formats=[faulty(fault)])
    name = f"faulty_{fault}"
    pairs: dict[str, tuple[Case, Case]] = {
        "layers": (LayerCase("m", name, "tensor", "1"), LayerCase("m", "int8", "tensor", "1")),
        "formats": (FormatCase(name, "normal"), FormatCase("int8", "normal")),
        "quantizers": (QuantizerCase(name, "tensor"), QuantizerCase("int8", "tensor")),
    }
    bad, good = pairs[table]
    row = engine.run(bad, TIMER)
    assert row.outcome in ("failed", "error")
    assert "guest (local)" in row.reason
    assert row.format_owner == "guest (local)"
    if fault == "raises":
        assert "ZeroDivisionError: round divides by zero" in row.reason
    if fault in ("off_grid", "nan"):
        assert row.outcome == "failed"
        assert row.compliant is False
        assert row.violations
        assert row.violation in row.reason
    assert engine.run(good, TIMER).outcome == "passed", "other cases are unaffected"


@pytest.mark.parametrize(
    "case",
    [
        LayerCase("m", "faulty_scalar", "tensor", "1"),
        FormatCase("faulty_scalar", "normal"),
        QuantizerCase("faulty_scalar", "tensor"),
    ],
)
def test_rounding_to_a_shape_that_broadcasts_is_not_overlooked(
    make_engine: MakeEngine, case: Case
) -> None:
    row = make_engine(formats=[faulty("scalar")]).run(case, untimed)
    assert row.outcome == "error"
    assert "round returns the shape it is given; faulty_scalar returned ()" in row.reason


def test_owner_of_a_variant_is_the_owner_of_its_format(make_engine: MakeEngine) -> None:
    engine = make_engine(formats=[faulty("off_grid")])
    row = engine.run(FormatCase("faulty_off_grid+stochastic", "normal"), untimed)
    assert row.format_owner == "guest (local)"
    assert "guest (local)" in row.reason


def test_rounding_that_breaks_a_law_fails_its_format_case(make_engine: MakeEngine) -> None:
    row = make_engine(formats=[faulty("drifts")]).run(
        FormatCase("faulty_drifts", "normal"), untimed
    )
    assert isinstance(row, FormatRow)
    assert row.outcome == "failed"
    assert row.idempotent is False


def test_layer_that_raises_names_its_own_plugin(
    make_engine: MakeEngine, make_manager: MakeManager
) -> None:
    base = make_manager().layers.get("TinyLinear").layer

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        raise IndexError("no such channel")

    names = {"float_types": ("torch.nn.Tanh",), "forward": forward, "require": lambda module: None}
    names["from_float"] = classmethod(lambda cls, module, q, *, feature_axis=None: cls(q))
    broken = type("BrokenTanh", (base,), names)
    engine = make_engine({"m": lambda: nn.Sequential(nn.Tanh(), nn.ReLU())}, layers=[broken])
    row = layer_row(engine, "m", "int8", "tensor", "0")
    assert row.outcome == "error"
    assert "IndexError: no such channel" in row.reason
    assert "BrokenTanh is of guest (local)" in row.reason
    assert layer_row(engine, "m", "int8", "tensor", "1").outcome == "passed"


def test_layer_that_returns_another_shape_or_type_is_an_error(
    make_engine: MakeEngine, make_manager: MakeManager
) -> None:
    base = make_manager().layers.get("TinyReLU").layer
    for result, reason in (
        (lambda x: [x, x], "returned list"),
        (lambda x: (None, x), "returned tuple"),
        (lambda x: (), "returned tuple"),
        (lambda x: x[:1], "shape of its"),
    ):
        names = {"float_types": ("torch.nn.Tanh",), "forward": lambda self, x, r=result: r(x)}
        engine = make_engine(
            {"m": lambda: nn.Sequential(nn.Tanh())}, layers=[type("Odd", (base,), names)]
        )
        row = layer_row(engine, "m", "int8", "tensor", "0")
        assert row.outcome == "error"
        assert reason in row.reason


def test_layer_that_gives_several_tensors_is_compared_by_the_first(
    make_engine: MakeEngine, make_manager: MakeManager
) -> None:
    base = make_manager().layers.get("TinyReLU").layer

    def forward(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled = nn.functional.adaptive_max_pool2d(self.quantize(Role.INPUT, "input", x), 2)
        return pooled, torch.zeros(3)

    names = {"float_types": ("torch.nn.AdaptiveMaxPool2d",), "forward": forward}
    engine = make_engine(
        {"m": lambda: nn.Sequential(nn.AdaptiveMaxPool2d(2, return_indices=True))},
        layers=[type("QuantPool", (base,), names)],
    )
    row = layer_row(engine, "m", "int8", "tensor", "0")
    assert row.outcome == "passed", row.reason
    x = engine.references.get(engine.pool.get("m"), "0").args[0].numpy()
    windows = [v.reshape(8, 3, 2, 2, 2, 2).max((3, 5)) for v in (int8(x), x)]
    error = windows[0].astype(np.float64) - windows[1]
    assert row.mse == pytest.approx(np.square(error).mean(), rel=1e-6)
    assert row.mse > 0


def nan_weights() -> nn.Module:
    model = tiny()
    with torch.no_grad():
        next(model.parameters())[0, 0] = math.nan
    return model


def test_model_with_nan_weights_is_measured_on_what_is_finite(make_engine: MakeEngine) -> None:
    engine = make_engine({"m": nan_weights, "good": tiny})
    row = layer_row(engine, "m", "int8", "tensor", "1")
    assert row.outcome == "passed", row.reason
    assert row.mse is not None
    assert math.isfinite(row.mse)
    assert row.output_nonfinite_count == 0
    assert layer_row(engine, "m", "int8", "tensor", "3").input_nan_count == 8
    assert layer_row(engine, "good", "int8", "tensor", "1").outcome == "passed"


def test_finite_output_that_becomes_nan_fails(
    make_engine: MakeEngine, make_manager: MakeManager
) -> None:
    base = make_manager().layers.get("TinyReLU").layer

    def forward(self: Any, x: Tensor) -> Tensor:
        return base.forward(self, x) / 0

    names = {"float_types": ("torch.nn.Tanh",), "forward": forward}
    engine = make_engine(
        {"m": lambda: nn.Sequential(nn.Tanh())}, layers=[type("Odd", (base,), names)]
    )
    row = layer_row(engine, "m", "int8", "tensor", "0")
    assert (row.outcome, row.output_nonfinite_count) == ("failed", 8 * 48)
    assert "finite output stays finite" in row.reason


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (("m", "int8", "tensor", "17"), "'17' of 'm' is none"),
        (("m", "int8", "tensor", "0"), "qbench list layers --models m"),
        (("nosuch", "int8", "tensor", "1"), "nosuch"),
        (("m", "int8", "tensr", "1"), "Did you mean tensor"),
        (("m", "bf16", "chunk4", "1"), "without a scale"),
    ],
)
def test_case_that_is_not_of_the_grid_is_an_error_row(
    make_engine: MakeEngine, parts: tuple[str, ...], reason: str
) -> None:
    row = layer_row(make_engine(), *parts)
    assert row.outcome == "error"
    assert reason in row.reason


def test_dataset_that_does_not_work_is_named_in_the_row(make_engine: MakeEngine) -> None:
    def load(split: str) -> Any:
        raise DatasetError("The disk with the images is not mounted.")

    dataset = DatasetEntry(name="gone", load=load, num_classes=2)
    engine = make_engine(datasets=[dataset], settings={"dataset": "gone"})
    row = layer_row(engine, "m", "int8", "tensor", "1")
    assert (row.outcome, row.reason) == ("error", "The disk with the images is not mounted.")


def test_roles_may_have_quantizers_of_their_own(make_engine: MakeEngine) -> None:
    roles = {"weight": "fp8-chunk2", "input": "none", "output": "int8-tensor"}
    row = layer_row(make_engine(settings={"roles": roles}), "m", "int8", "chunk4", "1")
    assert row.outcome == "passed", row.reason
    assert row.roles == "weight=fp8-chunk2;output=int8-tensor"
    assert row.input_bits_per_value is None


def test_roles_that_a_layer_has_not_are_ignored(make_engine: MakeEngine) -> None:
    row = layer_row(make_engine(settings={"roles": {"weight": "none"}}), "m", "int8", "tensor", "2")
    assert row.roles == "input=int8-tensor;act=int8-tensor"


@pytest.mark.parametrize(
    ("spec", "error", "reason"),
    [
        ("int8", ModeError, "got 'int8'"),
        ("int9-tensor", NameNotFoundError, "Did you mean int8"),
        ("int8-tensr", NameNotFoundError, "Did you mean tensor"),
        ("bf16-chunk4", ModeError, "without a scale"),
    ],
)
def test_role_that_names_no_quantizer_is_told_before_any_case(
    make_engine: MakeEngine, spec: str, error: type[Exception], reason: str
) -> None:
    engine = make_engine(settings={"roles": {"weight": spec}})
    with pytest.raises(error, match=reason):
        engine.layer_cases(Selection())
    assert reason in layer_row(engine, "m", "int8", "tensor", "1").reason


def gates(tmp_path: Path, *lines: str) -> Gates:
    file = tmp_path / "gates.csv"
    file.write_text("\n".join(["table,format,mode,what,min_sqnr_db", *lines]))
    return Gates.read(file)


def test_row_below_its_gate_fails_and_keeps_its_numbers(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    table = gates(tmp_path, "layers,int8,tensor,Linear,99", "formats,int8,*,normal,98")
    engine = make_engine(gates=table)
    row = layer_row(engine, "m", "int8", "tensor", "1")
    assert (row.outcome, row.min_sqnr_db) == ("failed", 99.0)
    assert row.sqnr_db is not None
    assert "at least 99 dB on Linear" in row.reason
    assert "--qbench-gates" in row.reason
    assert layer_row(engine, "m", "int8", "tensor", "2").outcome == "passed"
    for distribution, outcome in (("normal", "failed"), ("uniform", "passed")):
        found = engine.run(FormatCase("int8", distribution), untimed)
        assert found.outcome == outcome, found.reason


@pytest.mark.parametrize("distribution", ["normal", "uniform", "laplace", "lognormal", "outliers"])
@pytest.mark.parametrize(
    "name", ["int8", "fp8", "bf16", "scales", "fp8+truncate", "int8+stochastic"]
)
def test_lawful_format_passes_on_every_distribution(
    make_engine: MakeEngine, name: str, distribution: str
) -> None:
    row = make_engine().run(FormatCase(name, distribution), untimed)
    assert isinstance(row, FormatRow)
    assert row.outcome == "passed", row.reason
    assert (row.idempotent, row.monotonic, row.round_trip) == (True, True, True)
    assert row.samples == 1 << 16


def test_row_of_a_format_is_what_numpy_computes(make_engine: MakeEngine) -> None:
    row = make_engine().run(FormatCase("int8", "uniform"), TIMER)
    assert isinstance(row, FormatRow)
    assert (row.bits, row.value_count, row.max_value, row.smallest_value) == (8, 255, 127.0, 1.0)
    assert row.dynamic_range_db == pytest.approx(20 * math.log10(127))
    assert row.mse == pytest.approx((1 / 127) ** 2 / 12, rel=0.02), "uniform noise of one step"
    assert row.sqnr_db == pytest.approx(10 * math.log10((1 / 3) / ((1 / 127) ** 2 / 12)), abs=0.1)
    assert row.rounds == 3
    assert row.latency_ms


def test_row_of_a_quantizer_has_its_ratios(make_engine: MakeEngine) -> None:
    row = make_engine().run(QuantizerCase("int8", "chunk4"), TIMER)
    assert isinstance(row, QuantizerRow)
    assert row.outcome == "passed", row.reason
    assert (row.shape, row.dtype, row.rounds) == ("64x48", "float32", 3)
    assert row.bits_per_value == 8 + 32 / 4
    assert row.bytes_moved == 64 * 48 * 4 * 2 + 64 * 12 * 4
    assert row.latency_ms
    assert row.copy_ms
    assert row.eager_ms
    assert row.copy_ratio == pytest.approx(row.copy_ms / row.latency_ms)
    assert row.eager_ratio == pytest.approx(row.eager_ms / row.latency_ms)
    assert row.gb_per_s == pytest.approx(row.bytes_moved / row.latency_ms * 1e-6)
    assert row.gelem_per_s == pytest.approx(64 * 48 / row.latency_ms * 1e-6)
    assert row.peak_bytes_ratio is not None
    assert row.peak_bytes_ratio >= 1


def test_scale_a_tensor_is_known_only_after_reading_it_twice(make_engine: MakeEngine) -> None:
    def bytes_of(name: str) -> int:
        row = make_engine().run(QuantizerCase(name, "tensor"), untimed)
        assert isinstance(row, QuantizerRow)
        assert row.bytes_moved is not None
        return row.bytes_moved

    assert bytes_of("int8") - bytes_of("bf16") == 64 * 48 * 4


def test_unknown_device_is_refused_at_once(make_engine: MakeEngine) -> None:
    with pytest.raises(NameNotFoundError, match="'nosuch'"):
        make_engine(settings={"device": "nosuch"})


def test_faulty_without_a_fault_is_a_format_like_any_other(make_engine: MakeEngine) -> None:
    engine = make_engine(formats=[replace(faulty(""), name="fine")])
    row = engine.run(FormatCase("fine", "normal"), untimed)
    assert row.outcome == "passed", row.reason


def test_a_layer_that_quantizes_nothing_is_an_error_by_its_name(
    make_engine: MakeEngine, make_manager: MakeManager
) -> None:
    base = make_manager().layers.get("TinyReLU").layer
    names = {"float_types": ("torch.nn.Tanh",), "forward": lambda self, x: x.tanh()}
    build = {"m": lambda: nn.Sequential(nn.Tanh())}
    engine = make_engine(build, layers=[type("Lazy", (base,), names)])
    row = layer_row(engine, "m", "int8", "tensor", "0")
    assert (row.outcome, row.compliant) == ("error", None)
    assert "Lazy" in row.reason
    assert "quantized nothing" in row.reason
