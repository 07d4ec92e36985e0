"""Model cases: every column by an independent computation, and what goes wrong without losing the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench_suite import CodebookFormat, DatasetEntry, Manager, PolicyError
from qbench_suite.engine import Engine, ModelCase, Selection, Settings
from qbench_suite.engine.evaluate import Pair
from qbench_suite.errors import BrokenImageError
from qbench_suite.results import Gates, ModelLayerRow, ModelRow, ViolationRow
from qbench_suite.results.schema import columns_of
from qbench_suite.timing import RoundTimer, Samples

MakeManager = Callable[..., Manager]
MakeEngine = Callable[..., Engine]
TIMER = RoundTimer(rounds=2, warmup=1)
COUNT = 20
POLICIES = {
    "fine": "format: int8\nmode: chunk4\n",
    "coarse": "format: int8\nmode: tensor\nscope: all\nact_format: int8\n",
    "static": "format: int8\nscales: static\ncalibration: {images: 8, seed: 3}\n",
    "elsewhere": "format: int8\nlayers:\n  blocks.*: {weight_format: fp8}\n",
    "twice": "format: faulty\n",
}


def untimed(function: Callable[[], object], before: Callable[[], object] | None = None) -> Samples:
    return Samples(())


class Net(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.flatten, self.first, self.act = nn.Flatten(), nn.Linear(48, 8), nn.ReLU(inplace=True)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.first(self.flatten(x))))  # type: ignore[no-any-return]


def spoiled() -> nn.Module:
    net = Net()
    with torch.no_grad():
        net.head.bias[0] = math.nan
    return net


class Images:
    def __init__(self, split: str, channels: int = 3, broken: tuple[int, ...] = ()) -> None:
        generator = torch.Generator().manual_seed(int(split == "train"))
        self.x = torch.rand(COUNT, channels, 4, 4, generator=generator)
        self.broken, self.reads = broken, 0

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.reads += 1
        if index in self.broken:
            raise BrokenImageError(f"image {index} is cut short")
        return self.x[index], index % 5


def dataset(name: str, load: Callable[[str], Any] = Images, classes: int = 5) -> DatasetEntry:
    return DatasetEntry(name=name, load=load, num_classes=classes)


DATASETS = (
    dataset("images"),
    dataset("gray", lambda split: Images(split, channels=1)),
    dataset("spotty", lambda split: Images(split, broken=(0, 7))),
    dataset("rotten", lambda split: Images(split, broken=(1, 2, 3, 4))),
    dataset("untrained", lambda split: [] if split == "train" else Images(split)),
    dataset("wide", classes=7),
)


@pytest.fixture
def make_engine(make_manager: MakeManager, tmp_path: Path) -> MakeEngine:
    """``make_engine(models, settings=…, gates=…, …)``; ``…`` is registered too."""
    for name, text in POLICIES.items():
        (tmp_path / f"{name}.yaml").write_text(text)

    def make(
        models: Mapping[str, Callable[[], nn.Module]] | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        gates: Gates | None = None,
        **entries: Any,
    ) -> Engine:
        chosen = {"eval_batch": 8, "dataset": "images", "broken_images": 3, **(settings or {})}
        models = models or {"m": Net}
        manager = make_manager(models, datasets=DATASETS, **entries)
        return Engine(manager, Settings(**chosen), gates)

    return make


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., ModelRow]:
    """``run(engine, policy)``: the row of ``m`` by that policy."""

    def run(
        engine: Engine, policy: str = "fine", model: str = "m", timer: Any = untimed
    ) -> ModelRow:
        (case,) = engine.model_cases(
            Selection(models=model, policies=str(tmp_path / f"{policy}.yaml"))
        )
        row = engine.run(case, timer)
        assert isinstance(row, ModelRow)
        return row

    return run


Run = Callable[..., ModelRow]


def layers_of(row: ModelRow) -> dict[str, ModelLayerRow]:
    return {d.layer: d for d in row.details if isinstance(d, ModelLayerRow)}


def int8(x: np.ndarray, chunk: int) -> np.ndarray:
    """int8 with a scale for each ``chunk`` of the last axis, in NumPy float32."""
    groups = x.astype(np.float32).reshape(-1, chunk)
    amax = np.abs(groups).max(1, keepdims=True)
    scale = np.where(amax > 0, amax / np.float32(127), np.float32(1)).astype(np.float32)
    values: np.ndarray = np.clip(np.rint(groups / scale), -127, 127) * scale
    return values.reshape(x.shape)


def test_row_is_what_numpy_computes(make_engine: MakeEngine, run: Run) -> None:
    row = run(make_engine(), timer=TIMER)
    assert row.outcome == "passed", row.reason
    net, x = Net(), Images("test").x.flatten(1).numpy()
    (w1, b1), (w2, b2) = (
        [p.detach().numpy() for p in layer.parameters()] for layer in (net.first, net.head)
    )
    float_hidden = x @ w1.T + b1
    r = np.maximum(float_hidden, 0) @ w2.T + b2
    hidden = int8(x, 4) @ int8(w1, 4).T + b1
    y = int8(np.maximum(hidden, 0), 4) @ int8(w2, 4).T + b2
    labels = np.arange(COUNT) % 5
    right, now = r.argmax(1) == labels, y.argmax(1) == labels
    assert (row.images, row.skipped_images, row.batch, row.dataset) == (COUNT, 0, 8, "images")
    assert row.top1 == pytest.approx(100 * now.mean())
    assert row.fp32_top1 == pytest.approx(100 * right.mean())
    assert (row.top5, row.fp32_top5, row.top5_high) == (100.0, 100.0, 100.0)
    assert (row.fp32_top5_low, row.fp32_top5_high) == (row.top5_low, 100.0)
    assert row.top1_drop_low <= row.top1_drop <= row.top1_drop_high  # type: ignore[operator]
    assert row.top1_drop == pytest.approx(100 * (right.mean() - now.mean()))
    assert (row.lost, row.gained) == ((right & ~now).sum(), (~right & now).sum())
    assert row.agreement == pytest.approx(100 * (r.argmax(1) == y.argmax(1)).mean())
    p, q = (np.exp(t.astype(np.float64)) for t in (r, y))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    assert row.kl == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-2)
    assert row.certainty == pytest.approx(q.max(1).mean(), rel=1e-5)
    assert row.fp32_certainty == pytest.approx(p.max(1).mean(), rel=1e-5)
    noise = ((y - r).astype(np.float64) ** 2).sum()
    assert row.mse == pytest.approx(noise / r.size, rel=1e-3)
    assert row.sqnr_db == pytest.approx(
        10 * math.log10((r.astype(np.float64) ** 2).sum() / noise), abs=0.01
    )
    assert (row.nonfinite_count, row.fp32_nonfinite_count) == (0, 0)
    assert row.multiply_adds == 48 * 8 + 8 * 5
    assert (row.coverage, row.full_coverage, row.quantized_layers) == (1, 1, 2)
    parameters, weights = 48 * 8 + 8 + 8 * 5 + 5, 48 * 8 + 8 * 5
    bits = weights * (8 + 32 / 4) + (parameters - weights) * 32
    assert row.weight_bits == pytest.approx(bits / parameters)
    assert row.weight_bytes == math.ceil(bits / 8)
    assert row.input_bits == pytest.approx(8 + 32 / 4)
    assert (row.violations, row.compliant, row.compliance) == (0, True, "weight=2;input=2")
    assert row.checked_values == weights + 16 * (48 + 8), "activations of the first 16 images"
    assert (row.scales, row.formats, row.modes, row.rounds) == ("dynamic", "int8", "chunk4", 2)
    assert row.latency_ms is not None
    assert row.slowdown is not None
    assert row.layerwise_slowdown is not None
    layers = layers_of(row)
    error = ((hidden - float_hidden).astype(np.float64) ** 2).mean()
    assert layers["first"].mse == pytest.approx(error, rel=1e-3)
    assert layers["first"].input_max == pytest.approx(float(x.max()))
    assert (layers["first"].quant_type, layers["first"].multiply_adds) == ("TinyLinear", 48 * 8)
    assert (layers["first"].weight_bits, layers["first"].coverage) == (16.0, 1.0)
    assert (layers["act"].quant_type, layers["act"].roles) == ("", "")
    assert layers["act"].reason
    assert layers["head"].checked_values == 8 * 5 + 16 * 8
    assert layers["head"].mse == pytest.approx(row.mse, rel=1e-9)


def test_every_column_is_filled(make_engine: MakeEngine, run: Run) -> None:
    row = run(make_engine(settings={"dataset": "spotty"}), "static", timer=TIMER)
    assert row.outcome == "passed", row.reason
    none_of = {"reason", "violation", "range_rules"}
    none_of |= {"rounding", "rounding_seconds", "rounding_gain_db"}  # all weights go to nearest
    empty = {f.name for f in columns_of(type(row)) if getattr(row, f.name) in (None, "")} - none_of
    assert not empty
    for layer in layers_of(row).values():
        found = {f.name for f in columns_of(type(layer)) if getattr(layer, f.name) is None}
        # What has no weights or multiplies nothing, and what compliance did not look at.
        allowed = {"weight_bits", "coverage", "checked_values", "violations"}
        # And what no rule rounded.
        allowed |= {"rounding_flipped", "rounding_sqnr_before_db", "rounding_sqnr_db"}
        assert found <= allowed, layer.layer


def test_policies_of_a_model_share_the_model_its_logits_and_its_images(
    make_engine: MakeEngine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, data = make_engine(settings={"layerwise": False}), Images("test")
    engine.subjects.get("m").source.inputs._items = data
    calls: list[int] = []
    whole = Pair.float_logits

    def spy(self: Pair, images: Tensor) -> Tensor:
        calls.append(len(images))
        return whole(self, images)

    monkeypatch.setattr(Pair, "float_logits", spy)
    assert run(engine, "fine").outcome == "passed"
    reads = data.reads
    assert run(engine, "coarse").outcome == "passed"
    assert data.reads == reads <= COUNT
    assert calls == [8, 8, 4], "the float model does not run again"
    assert engine.pool.loads["m"] == 1


def test_static_scales_come_from_training_images(make_engine: MakeEngine, run: Run) -> None:
    row = run(make_engine(), "static")
    assert row.outcome == "passed", row.reason
    assert (row.scales, row.calibration) == ("static", "images, 8 images, seed 3")
    other = run(make_engine(settings={"dataset": "untrained"}), "static")
    assert other.outcome == "error"
    assert "Calibration" in other.reason
    assert "'train' of 'untrained' is empty" in other.reason


def test_gray_and_broken_images(make_engine: MakeEngine, run: Run) -> None:
    assert run(make_engine(settings={"dataset": "gray"})).images == COUNT
    row = run(make_engine(settings={"dataset": "spotty"}))
    assert (row.outcome, row.images, row.skipped_images) == ("passed", COUNT - 2, 2)
    assert row.skipped == "image 0 is cut short; image 7 is cut short"
    bad = run(make_engine(settings={"dataset": "rotten"}))
    assert bad.outcome == "error"
    assert "At most 3" in bad.reason
    assert bad.coverage == 1, "what was measured before stays"


def test_noise_has_no_accuracy_but_drift(make_engine: MakeEngine, run: Run) -> None:
    row = run(make_engine(settings={"dataset": "random", "images": 12}))
    assert (row.outcome, row.images) == ("passed", 12)
    columns = ("top1", "top1_low", "top5", "fp32_top1", "fp32_top5", "top1_drop", "lost", "gained")
    assert {getattr(row, name) for name in columns} == {None}
    assert None not in (row.agreement, row.kl, row.sqnr_db, row.certainty)


def test_a_subset_is_evaluated(make_engine: MakeEngine, run: Run) -> None:
    assert run(make_engine(settings={"images": 6})).images == 6


def test_without_layerwise_metrics_layers_have_no_drift(make_engine: MakeEngine, run: Run) -> None:
    whole, row = run(make_engine()), run(make_engine(settings={"layerwise": False}), timer=TIMER)
    assert row.layerwise_slowdown is None
    assert {layer.mse for layer in layers_of(row).values()} == {None}
    assert row.mse == pytest.approx(whole.mse, rel=1e-6)


def test_classes_that_do_not_agree_are_an_error(make_engine: MakeEngine, run: Run) -> None:
    row = run(make_engine(settings={"dataset": "wide"}))
    assert row.outcome == "error"
    assert "'m' has 5 classes, 'wide' has 7" in row.reason


def test_a_model_that_gives_nan_fails_and_is_measured(make_engine: MakeEngine, run: Run) -> None:
    row = run(make_engine({"m": spoiled}))
    assert row.outcome == "failed"
    assert "NaN" in row.reason
    assert (row.top1, row.fp32_top1, row.fp32_nonfinite_count) == (0.0, 0.0, COUNT)
    assert row.sqnr_db is not None


def test_a_policy_for_another_model_is_an_error_that_names_the_line(
    make_engine: MakeEngine, run: Run
) -> None:
    row = run(make_engine(), "elsewhere")
    assert row.outcome == "error"
    assert "elsewhere.yaml, line 3" in row.reason
    assert "blocks.*" in row.reason


def test_a_policy_that_is_wrong_for_every_model_is_told_before_any_case(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    (tmp_path / "bad.yaml").write_text("format: int9\n")
    with pytest.raises(PolicyError, match=r"bad\.yaml, line 1"):
        make_engine().model_cases(Selection(policies=str(tmp_path / "bad.yaml")))


@dataclass(frozen=True, kw_only=True)
class Faulty(CodebookFormat):
    """A format whose values are off its own grid, or that raises."""

    raises: bool = False

    def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
        if self.raises:
            raise ZeroDivisionError("round divides by zero")
        return super().round(x) * 0.75


def test_values_off_the_grid_fail_the_case_and_are_listed(
    make_engine: MakeEngine, run: Run
) -> None:
    faulty = Faulty(name="faulty", bits=2, values=(-1.0, 0.0, 1.0))
    row = run(make_engine(formats=[faulty]), "twice")
    assert (row.outcome, row.compliant) == ("failed", False)
    assert row.violations
    assert row.violation in row.reason
    assert "guest (local)" in row.reason
    found = [d for d in row.details if isinstance(d, ViolationRow)]
    assert {d.layer for d in found} == {"first", "head"}
    assert {d.role for d in found} == {"weight", "input"}
    assert all(d.nearest_below or d.nearest_above for d in found)
    assert sum(layer.violations or 0 for layer in layers_of(row).values()) == row.violations
    assert row.top1 is not None


def test_a_format_that_raises_is_an_error_that_names_its_plugin(
    make_engine: MakeEngine, run: Run
) -> None:
    faulty = Faulty(name="faulty", bits=2, values=(-1.0, 0.0, 1.0), raises=True)
    row = run(make_engine(formats=[faulty]), "twice")
    assert row.outcome == "error"
    assert "divides by zero" in row.reason
    assert "guest (local)" in row.reason


def test_a_row_below_its_gate_fails(make_engine: MakeEngine, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "gates.csv"
    file.write_text("table,format,mode,what,min_sqnr_db\nmodels,fine,*,m,99\n")
    engine = make_engine(gates=Gates.read(file))
    row = run(engine)
    assert row.outcome == "failed"
    assert "at least 99 dB" in row.reason
    assert run(engine, "coarse").outcome == "passed"


def test_a_failure_while_timing_leaves_what_was_measured(make_engine: MakeEngine, run: Run) -> None:
    def broken(*_: object) -> Samples:
        raise OSError("the clock is gone")

    row = run(make_engine(), timer=broken)
    assert row.outcome == "error"
    assert "the clock is gone" in row.reason
    assert row.top1 is not None
    assert row.latency_ms is None


def test_a_stopped_case_goes_on_and_leaves_nothing_behind(
    make_engine: MakeEngine, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(make_engine())
    settings = {"unfinished": tmp_path / "unfinished"}
    whole = Pair.lockstep
    calls = []

    def stops(self: Pair, images: Tensor) -> Any:
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, images)

    monkeypatch.setattr(Pair, "lockstep", stops)
    with pytest.raises(KeyboardInterrupt):
        run(make_engine(settings=settings))
    assert len(list((tmp_path / "unfinished").iterdir())) == 1
    engine = make_engine(settings=settings)
    told: list[tuple[str, int, int]] = []
    engine.progress = lambda *event: told.append(event)
    row = run(engine)
    assert calls == [8, 8, 8, 4], "the first batch is not measured again"
    assert told == [("m-fine", 16, 20), ("m-fine", 20, 20)]
    for name in ("top1", "kl", "mse", "agreement", "certainty", "images", "fp32_top1"):
        assert getattr(row, name) == getattr(expected, name), name
    for name, layer in layers_of(expected).items():
        assert layers_of(row)[name].mse == layer.mse
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_another_policy_of_that_name_does_not_go_on_from_it(
    make_engine: MakeEngine, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"unfinished": tmp_path / "unfinished"}
    with monkeypatch.context() as patch:
        patch.setattr(Pair, "lockstep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(make_engine(settings=settings))
    (tmp_path / "fine.yaml").write_text(POLICIES["coarse"])
    engine = make_engine(settings=settings)
    told: list[int] = []
    engine.progress = lambda case, done, total: told.append(done)
    run(engine)
    assert told == [8, 16, 20]


def test_a_case_that_the_model_has_no_memory_for_says_so(
    make_engine: MakeEngine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Pair.lockstep

    def hungry(self: Pair, images: Tensor) -> Any:
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, images)

    expected = run(make_engine())
    monkeypatch.setattr(Pair, "lockstep", hungry)
    with pytest.warns(RuntimeWarning, match="memory ran out"):
        row = run(make_engine())
    assert (row.outcome, row.batch, row.images) == ("passed", 2, COUNT)
    assert row.mse == pytest.approx(expected.mse, rel=1e-3), "scales are those of other batches"
    monkeypatch.setattr(Pair, "lockstep", lambda *_: (_ for _ in ()).throw(MemoryError("no")))
    with pytest.warns(RuntimeWarning, match="memory ran out"):
        row = run(make_engine())
    assert row.outcome == "error"
    assert "one image" in row.reason


class Hungry(Net):
    """Has no room for more than ``most`` images, from its n-th forward on."""

    def __init__(self, most: int, after: int = 0) -> None:
        super().__init__()
        self.most, self.after, self.calls = most, after, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > self.after and len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


@pytest.mark.parametrize("policy", ["fine", "static"])
@pytest.mark.parametrize("most", [1, 3])
def test_every_part_goes_on_with_fewer_images(
    make_engine: MakeEngine, run: Run, policy: str, most: int
) -> None:
    expected = run(make_engine(), policy, timer=TIMER)
    with pytest.warns(RuntimeWarning, match="memory ran out"):
        row = run(make_engine({"m": lambda: Hungry(most)}), policy, timer=TIMER)
    assert (row.outcome, row.reason) == ("passed", "")
    assert (row.batch, row.images, row.calibration) == (
        {1: 1, 3: 2}[most],
        COUNT,
        expected.calibration,
    )
    assert (row.coverage, row.violations) == (expected.coverage, 0)
    assert row.latency_ms
    assert row.layerwise_slowdown


@pytest.mark.parametrize(("function", "what"), [("time_paired", "timing"), ("convert", "weights")])
def test_memory_that_runs_out_elsewhere_is_no_plugins_fault(
    make_engine: MakeEngine,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    what: str,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError(f"no room for {what}")

    monkeypatch.setattr(f"qbench_suite.engine.model_case.{function}", full)
    row = run(make_engine())
    assert row.outcome == "error"
    assert f"ran out of it: no room for {what}. Use a smaller model or image size" in row.reason
    assert "plugin" not in row.reason
    assert (row.top1 is not None) == (what == "timing"), "what was measured before stays"


def test_timing_goes_on_with_fewer_images(make_engine: MakeEngine, run: Run) -> None:
    counted: list[int] = []

    class Counting(Net):
        def forward(self, x: Tensor) -> Tensor:
            counted.append(len(x))
            return super().forward(x)

    run(make_engine({"m": Counting}))
    before_timing = len(counted) - 2  # both models, once, before the timer
    with pytest.warns(RuntimeWarning, match="memory ran out"):
        row = run(make_engine({"m": lambda: Hungry(5, before_timing // 2)}), timer=TIMER)
    assert row.outcome == "passed"
    assert row.batch == 4
    assert row.latency_ms


def test_a_model_without_room_for_one_image_says_so(make_engine: MakeEngine, run: Run) -> None:
    with pytest.warns(RuntimeWarning, match="memory ran out"):
        row = run(make_engine({"m": lambda: Hungry(0)}))
    assert row.outcome == "error"
    assert "out of memory at one image" in row.reason
    assert "smaller model or image size, or another device" in row.reason
    assert "as the model takes them" not in row.reason


def test_id_row_and_owner_of_a_case(make_engine: MakeEngine, run: Run, tmp_path: Path) -> None:
    row = run(make_engine())
    assert (row.case, row.model, row.format, row.format_owner) == (
        "m-fine",
        "m",
        "int8",
        "world (local)",
    )
    assert row.policy == str(tmp_path / "fine.yaml")
    assert ModelCase("m", row.policy).id == row.case
