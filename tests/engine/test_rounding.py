"""Model cases whose weights a rule rounds: columns, order, cache, kills, and running out of memory."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from qbench_suite import (
    GPTQ,
    DatasetEntry,
    ModelEntry,
    RoundingProblem,
    RoundingRule,
    SelectionError,
    default_manager,
    hookimpl,
)
from qbench_suite.calibration import lockstep
from qbench_suite.engine import Engine, Selection, Settings, model_case
from qbench_suite.engine import rounding as engine_rounding
from qbench_suite.engine.candidate import candidate_policy
from qbench_suite.results import ModelLayerRow, ModelRow
from qbench_suite.timing import Samples

COUNT = 24


class Net(nn.Module):
    """Two branches of three layers, one of which is called twice, one never."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.flatten, self.fc = nn.Flatten(), nn.Linear(128, 16)
        self.twice, self.head = nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(self.flatten(self.conv(x).relu_()))
        y = y + self.twice(self.twice(y.relu()))
        return self.head(y)  # type: ignore[no-any-return]


class Images:
    def __init__(self, split: str) -> None:
        generator = torch.Generator().manual_seed(int(split == "train"))
        self.x = torch.rand(COUNT, 3, 4, 4, generator=generator).cumsum(dim=1)

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index], index % 5


@dataclass(frozen=True, kw_only=True)
class Counting(RoundingRule):
    """GPTQ that notes the shapes it rounds, and is killed at one of them."""

    rounded: list[tuple[int, ...]] = field(default_factory=list, compare=False, repr=False)
    kill_at: list[int] = field(default_factory=list, compare=False, repr=False)

    def round(self, problem: RoundingProblem) -> Tensor:
        if len(self.rounded) in self.kill_at:
            raise KeyboardInterrupt
        self.rounded.append(tuple(problem.weight.shape[1:]))
        return GPTQ(name="gptq").round(problem)


@dataclass
class World:
    """An engine, the rule it rounds by, and where it keeps what it rounded."""

    engine: Engine
    rule: Counting
    policy: Path

    def run(self) -> ModelRow:
        selection = Selection(models="net", policies=str(self.policy))
        (case,) = self.engine.model_cases(selection)
        row = self.engine.run(case, lambda function, before=None: Samples(()))
        assert isinstance(row, ModelRow)
        return row


POLICY = """
weight_format: int3
weight_mode: channel
weight_rounding: counting
input_format: none
calibration: {images: 16, batch: 8}
"""
SHAPES = [(8, 27), (16, 128), (16, 16), (5, 16)]


@pytest.fixture
def world(tmp_path: Path) -> Callable[..., World]:
    """``world(policy)``: a new process, as it were, over the same folders."""

    def make(policy: str = POLICY, **settings: Any) -> World:
        rule = Counting(name="counting")
        plugin = types.ModuleType("guest")
        entries: dict[str, Any] = {
            "models": ModelEntry(
                name="net", build=Net, input_size=(3, 4, 4), num_classes=5, dataset="images"
            ),
            "datasets": DatasetEntry(name="images", load=Images, num_classes=5),
            "rounding_rules": rule,
        }
        for kind, entry in entries.items():

            def hook(register: Callable[[object], None], entry: Any = entry) -> None:
                register(entry)

            specname = f"qbench_register_{kind}"
            setattr(plugin, specname, hookimpl(specname=specname)(hook))
        manager = default_manager()
        manager.register(plugin)
        file = tmp_path / "policy.yaml"
        file.write_text(policy)
        chosen = {"fp32_cache": tmp_path / "cache", "eval_batch": 8, **settings}
        return World(Engine(manager, Settings(**chosen)), rule, file)

    return make


Make = Callable[..., World]


def layers_of(row: ModelRow) -> dict[str, ModelLayerRow]:
    return {d.layer: d for d in row.details if isinstance(d, ModelLayerRow)}


def files(folder: Path) -> list[Path]:
    return sorted((folder / "cache").glob("*.rounding.safetensors"))


def same(first: ModelRow, second: ModelRow) -> bool:
    """Whether two rows measured the same model, to the bit."""
    return (first.mse, first.kl, first.rounding_gain_db) == (
        second.mse,
        second.kl,
        second.rounding_gain_db,
    )


def test_rows_say_how_weights_were_rounded(world: Make) -> None:
    made = world()
    row, nearest = (
        made.run(),
        world(POLICY.replace("counting", "nearest").partition("cal")[0]).run(),
    )
    assert row.outcome == nearest.outcome == "passed", (row.reason, nearest.reason)
    assert made.rule.rounded == SHAPES
    assert (row.rounding, nearest.rounding) == ("counting", "")
    assert (nearest.rounding_seconds, nearest.rounding_gain_db) == (None, None)
    assert row.calibration == "images, 16 images, seed 0"
    assert row.compliant is True
    assert row.weight_bits == nearest.weight_bits
    assert row.mse is not None
    assert nearest.mse is not None
    assert row.mse < nearest.mse / 2
    layers = layers_of(row)
    rounded = {name: layer for name, layer in layers.items() if layer.rounding}
    assert list(rounded) == ["conv", "fc", "twice", "head"]
    gains = [
        d.rounding_sqnr_db - d.rounding_sqnr_before_db  # type: ignore[operator]
        for d in rounded.values()
    ]
    assert row.rounding_gain_db == pytest.approx(sum(gains) / 4)
    assert min(gains) >= 0
    assert all(0 <= d.rounding_flipped <= 1 for d in rounded.values())  # type: ignore[operator]
    assert row.rounding_seconds is not None


def test_what_was_rounded_once_is_taken_from_the_cache(world: Make, tmp_path: Path) -> None:
    first = world().run()
    assert len(files(tmp_path)) == 4
    again = world()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(again.run(), first)
    assert again.rule.rounded == []
    # Other images, another seed, another policy: other weights.
    for change in ({"seed": 1}, {}):
        policy = POLICY if change else POLICY.replace("images: 16", "images: 12")
        other = world(policy, **change)
        other.run()
        assert other.rule.rounded == SHAPES


@pytest.mark.parametrize("killed", [0, 1, 3])
def test_a_run_that_was_killed_goes_on_with_the_layer_it_was_in(
    world: Make, tmp_path: Path, killed: int
) -> None:
    whole = world(fp32_cache=None).run()
    first = world()
    first.rule.kill_at.append(killed)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    assert len(files(tmp_path)) == killed
    second = world()
    assert same(second.run(), whole)
    assert second.rule.rounded == SHAPES[killed:]


def test_a_kill_within_a_pass_gives_the_same_bits(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_rounding, "_PASSES", 2)
    whole = world(fp32_cache=None).run()
    first = world()
    first.rule.kill_at.append(3)  # two passes of two layers: within the second
    with pytest.raises(KeyboardInterrupt):
        first.run()
    assert same(world().run(), whole)


@pytest.mark.parametrize("how", ["torn", "foreign", "codes", "shape"])
def test_a_file_that_is_not_sound_is_computed_again(world: Make, tmp_path: Path, how: str) -> None:
    first = world().run()
    for path in files(tmp_path):
        with safe_open(path, "pt") as held:
            facts, codes = held.metadata(), held.get_tensor("codes")
        if how == "torn":
            path.write_bytes(path.read_bytes()[:50])
        elif how == "foreign":
            save_file({"codes": codes}, path, {**facts, "key": "0" * 64})
        elif how == "codes":
            save_file({"codes": codes + 5}, path, facts)
        else:
            save_file({"codes": codes[1:]}, path, facts)
    words = {
        "torn": "cannot be used",
        "foreign": "written for something else",
        "codes": "codes outside -3 … 3",
        "shape": "codes for a weight of",
    }[how]
    again = world()
    with pytest.warns(RuntimeWarning, match=words):
        assert same(again.run(), first)
    assert again.rule.rounded == SHAPES
    quiet = world()
    assert same(quiet.run(), first)
    assert quiet.rule.rounded == []


def test_a_folder_that_cannot_be_written_costs_a_warning_alone(world: Make, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        row = world().run()
    assert row.outcome == "passed", row.reason
    about = [str(w.message) for w in told if "Rounded weights are kept in" in str(w.message)]
    assert len(about) == 1, "once, not once a layer"


def test_later_layers_see_the_earlier_ones_rounded(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = world(fp32_cache=None).run()
    monkeypatch.setattr(engine_rounding, "_PASSES", 1)
    together = world(fp32_cache=None).run()
    before = [
        {n: d.rounding_sqnr_before_db for n, d in layers_of(row).items()}
        for row in (apart, together)
    ]
    assert before[0]["conv"] == before[1]["conv"]
    # Behind layers at nearest the inputs are further from what they are in the float model.
    assert before[0]["head"] > before[1]["head"]  # type: ignore[operator]


def test_passes_are_bounded_in_bytes(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[list[str]] = []
    collect = lockstep.collect

    def noting(original: Any, converted: Any, watched: Any, batches: Any, **rest: Any) -> Any:
        passes.append(list(watched))
        return collect(original, converted, watched, batches, **rest)

    monkeypatch.setattr(engine_rounding, "collect", noting)
    monkeypatch.setattr(engine_rounding, "_PASSES", 1)
    world(fp32_cache=None).run()
    small = 4 * 8 * (128**2 + 16**2)
    world(fp32_cache=None, cache_bytes=small).run()
    assert passes == [
        ["conv", "fc", "twice", "head"],
        ["conv"],
        ["fc", "twice"],
        ["head"],
    ]


def test_less_memory_means_fewer_images_at_once(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = world(fp32_cache=None).run()
    keep = lockstep._Sums.keep

    def scarce(self: Any, name: str, x: Tensor) -> None:
        if len(x) > 2:
            raise torch.OutOfMemoryError("out of memory")
        keep(self, name, x)

    monkeypatch.setattr(lockstep._Sums, "keep", scarce)
    with pytest.warns(RuntimeWarning, match="memory ran out at 8 images in a batch"):
        row = world(fp32_cache=None).run()
    assert row.outcome == "passed", row.reason
    assert row.rounding_gain_db == pytest.approx(whole.rounding_gain_db, abs=0.05)


def test_progress_counts_layers(world: Make) -> None:
    told: list[tuple[str, int, int]] = []
    made = world()
    made.engine.progress = lambda *done: told.append(done)
    made.run()
    rounding = [done for done in told if done[0].endswith(" rounding")]
    counts = [count for _, count, _ in rounding]
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2, 3, 4}
    assert {total for *_, total in rounding} == {4}


def test_static_scales_come_before_the_rounding_and_again_after_it(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    calibrate = model_case.calibrate

    def noting(*args: Any) -> int:
        events.append(f"scales after {len(made.rule.rounded)}")
        return calibrate(*args)

    monkeypatch.setattr(model_case, "calibrate", noting)
    text = POLICY.replace("input_format: none", "input_format: int8\nscales: static")
    made = world(text)
    row = made.run()
    assert row.outcome == "passed", row.reason
    assert events == ["scales after 0", "scales after 4"]
    assert (row.scales, row.rounding) == ("static", "counting")
    assert row.compliance == "weight=4;input=4"
    again = world(text)
    assert same(again.run(), row)
    assert again.rule.rounded == []


def test_policies_that_round_are_not_mixed_layer_by_layer(world: Make) -> None:
    made = world()
    with pytest.raises(SelectionError, match=r"round to nearest.*policy names one"):
        candidate_policy(str(made.policy), made.engine.manager)
