"""Model cases with a kernel: columns, order, resume, sensitivity, and machines that do not have it."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench_suite import (
    DatasetEntry,
    LinearEntry,
    ModelEntry,
    QuantModule,
    default_manager,
    hookimpl,
)
from qbench_suite.convert.policy import policy_named
from qbench_suite.engine import Engine, Selection, Settings, evaluate, identity
from qbench_suite.engine.proposal import policy_text
from qbench_suite.engine.sensitivity import Sensitivity
from qbench_suite.results import ModelLayerRow, ModelRow
from qbench_suite.timing import RoundTimer, Samples

COUNT = 24


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 2)
        self.flatten, self.fc = nn.Flatten(), nn.Linear(36, 16)
        self.act, self.head = nn.ReLU(), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.fc(self.flatten(self.conv(x)))))  # type: ignore[no-any-return]


class Images:
    def __init__(self, split: str) -> None:
        generator = torch.Generator().manual_seed(int(split == "train"))
        self.x = torch.rand(COUNT, 3, 4, 4, generator=generator).cumsum(dim=1)

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index], index % 5


class Kernel(nn.Module):
    """The product of a converted layer's own weights, plus ``off``; it counts its calls."""

    def __init__(self, layer: QuantModule, off: float) -> None:
        super().__init__()
        self.codes, self.bias, self.off = layer.weight.detach().clone(), layer.bias, off
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y: Tensor = nn.functional.linear(x, self.codes, self.bias)
        return y + self.off


@dataclass
class World:
    """An engine, the policy it runs, and the kernels that it made."""

    engine: Engine
    policy: Path
    made: list[Kernel] = field(default_factory=list)

    def run(self, timer: Any = lambda function, before=None: Samples(())) -> ModelRow:
        selection = Selection(models="net", policies=str(self.policy))
        (case,) = self.engine.model_cases(selection)
        row = self.engine.run(case, timer)
        assert isinstance(row, ModelRow)
        return row


POLICY = "weight_format: int3\nweight_mode: channel\ninput_format: none\nkernel: fake\n"
EMULATED = POLICY.replace("kernel: fake\n", "")


@pytest.fixture
def world(tmp_path: Path) -> Callable[..., World]:
    """``world(policy, off=…, unavailable=…)``; ``off`` is what the kernel adds by mistake."""

    def make(
        policy: str = POLICY, *, off: float = 0.0, unavailable: str = "", **settings: Any
    ) -> World:
        plugin = types.ModuleType("guest")

        def adopt(layer: QuantModule) -> nn.Module:
            found.made.append(Kernel(layer, off))
            return found.made[-1]

        entries: dict[str, Any] = {
            "models": ModelEntry(
                name="net", build=Net, input_size=(3, 4, 4), num_classes=5, dataset="images"
            ),
            "datasets": DatasetEntry(name="images", load=Images, num_classes=5),
            "linears": LinearEntry(
                name="fake",
                build=lambda linear: linear,
                format="int3",
                adopt=adopt,
                unavailable=lambda _: unavailable,
            ),
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
        chosen = {"eval_batch": 8, **settings}
        found = World(Engine(manager, Settings(**chosen)), file)
        return found

    return make


Make = Callable[..., World]


def layers_of(row: ModelRow) -> dict[str, ModelLayerRow]:
    return {d.layer: d for d in row.details if isinstance(d, ModelLayerRow)}


def test_rows_say_which_layers_a_kernel_computes(world: Make) -> None:
    made = world()
    row, emulated = made.run(RoundTimer(rounds=2, warmup=1)), world(EMULATED).run()
    assert row.outcome == emulated.outcome == "passed", (row.reason, emulated.reason)
    assert (row.kernel_layers, emulated.kernel_layers) == (2, 0)
    layers = layers_of(row)
    assert {name: layer.kernel for name, layer in layers.items() if layer.kernel} == {
        "fc": "fake",
        "head": "fake",
    }
    assert {name: layer.kernel_reason for name, layer in layers.items() if layer.kernel_reason} == {
        "conv": "kernels compute linear layers; this is Conv2d"
    }
    assert not any(d.kernel or d.kernel_reason for d in layers_of(emulated).values())
    assert all(kernel.calls > COUNT // 8 for kernel in made.made), "evaluated, and timed"
    # The same products of the same weights: what is said of them is the same, too.
    for column in ("mse", "kl", "top1", "weight_bits", "input_bits", "coverage", "checked_values"):
        assert getattr(row, column) == getattr(emulated, column), column


def test_it_is_the_kernel_that_is_evaluated(world: Make) -> None:
    exact, off = world().run(), world(off=10.0).run()
    assert exact.mse is not None
    assert off.mse is not None
    assert off.mse > 10 * exact.mse
    assert layers_of(off)["conv"].mse == layers_of(exact)["conv"].mse
    assert layers_of(off)["fc"].mse == pytest.approx(100, rel=0.1), "layer-wise metrics see it"
    # Compliance, coverage and bits come before, and look at values that are emulated.
    assert (off.compliant, off.weight_bits) == (True, exact.weight_bits)


def test_it_comes_after_calibration_and_rounding(world: Make) -> None:
    policy = (
        EMULATED + "weight_rounding: gptq\noutput_format: int8\nscales: static\n"
        "calibration: {images: 16, batch: 8}\n"
    )
    emulated = world(policy).run()
    made = world(policy + "kernel: fake\n")
    row = made.run()
    assert row.outcome == "passed", row.reason
    assert row.kernel_layers == 2
    assert (row.mse, row.rounding_gain_db) == (emulated.mse, emulated.rounding_gain_db)
    nearest = world(POLICY)
    nearest.run()
    assert not torch.equal(made.made[0].codes, nearest.made[0].codes), "codes are those of GPTQ"


def test_a_kernel_for_no_layer_is_an_error_of_the_case(world: Make) -> None:
    row = world(EMULATED + "first_layer: {kernel: fake}\n").run()
    assert row.outcome == "error"
    assert "policy.yaml, line 4: a kernel computes a layer of the model; got fake" in row.reason
    assert layers_of(row), "what was found before stays"


def test_a_kernel_that_this_machine_has_not_is_told_apart(world: Make) -> None:
    absent = world(unavailable="no library")
    (case,) = absent.engine.model_cases(Selection(models="net", policies=str(absent.policy)))
    assert absent.engine.unavailable(case) == "no library"
    row = absent.run()
    assert row.outcome == "error"
    assert "fake does not: no library. Install" in row.reason
    assert world().engine.unavailable(case) == ""
    assert world(EMULATED, unavailable="no library").engine.unavailable(case) == ""


def test_an_evaluation_that_was_cut_off_goes_on(
    world: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = world().run()
    folder = tmp_path / "unfinished"
    measure, calls = evaluate.Evaluation._measure, []

    def cut(self: Any, *args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(self, *args)

    monkeypatch.setattr(evaluate.Evaluation, "_measure", cut)
    with pytest.raises(KeyboardInterrupt):
        world(unfinished=folder).run()
    assert list(folder.glob("*.json"))
    row = world(unfinished=folder).run()
    assert len(calls) == 4, "one batch was left"
    assert (row.mse, row.kl, row.top1) == (whole.mse, whole.kl, whole.top1)


def test_emulated_sums_are_none_of_a_kernel(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[dict[str, str]] = []
    found = identity.identity

    def spy(*args: Any) -> dict[str, str]:
        known.append(found(*args))
        return known[-1]

    monkeypatch.setattr("qbench_suite.engine.model_case.identity", spy)
    for policy in (POLICY, EMULATED):
        world(policy).run()
    changed = {name for name in known[0] if known[0][name] != known[1][name]}
    assert changed == {"policy", "plugins"}


def test_sensitivity_measures_what_is_emulated(world: Make, tmp_path: Path) -> None:
    made = world(off=10.0)
    policies = {}
    for name, text in (("with", POLICY), ("without", EMULATED)):
        made.policy.write_text(text)
        policies[name] = policy_named(str(made.policy), made.engine.manager)
    effects = []
    for name, policy in policies.items():
        measured = Sensitivity(made.engine, "net", [policy], tmp_path / name)
        effects.append(measured.effect(measured.whole(policy.name)))
        assert "kernel" not in policy_text(measured, measured.whole(policy.name), "mixed", [])
    assert effects[0] == effects[1]
    assert not made.made
