"""Sensitivity of a two-layer model against the same arithmetic written out, and what is measured when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qbench_suite import DatasetEntry, Manager, Quantizer
from qbench_suite.convert.assign import assign
from qbench_suite.convert.policy import Policy, read_policy
from qbench_suite.engine import Engine, Settings
from qbench_suite.engine.proposal import policy_text, propose, trials, write_policy
from qbench_suite.engine.sensitivity import Sensitivity
from qbench_suite.errors import (
    ConversionError,
    ModelError,
    QBenchError,
    ResultsError,
    SelectionError,
)
from qbench_suite.scaling import Axes

COARSE = Policy(name="coarse", format="int2", mode="tensor")
FINE = Policy(name="fine", format="int8", mode="chunk4")


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 5)).eval()


def load(split: str) -> Any:
    generator = torch.Generator().manual_seed(len(split))
    images = torch.rand(10, 3, 4, 4, generator=generator)
    return [(image, i % 5) for i, image in enumerate(images)]


@pytest.fixture
def manager(make_manager: Callable[..., Manager]) -> Manager:
    from qbench_suite import IntFormat

    data = DatasetEntry(name="noise", load=load, num_classes=5)
    int2 = IntFormat(name="int2", bits=2, low=-1, high=1)
    return make_manager({"m": build}, datasets=[data], formats=[int2])


@pytest.fixture
def measured(manager: Manager, tmp_path: Path) -> Sensitivity:
    return make(manager, tmp_path)


def make(manager: Manager, folder: Path, *policies: Policy, **settings: Any) -> Sensitivity:
    engine = Engine(manager, Settings(**{"dataset": "noise", "eval_batch": 10, **settings}))
    return Sensitivity(engine, "m", policies or (COARSE, FINE), folder)


def by_hand(manager: Manager, choice: dict[str, Policy]) -> tuple[float, float]:
    """(KL, top-1 in percent) of the model with these layers fake-quantized, written out."""

    def q(x: Tensor, policy: Policy | None, axes: Axes) -> Tensor:
        if policy is None:
            return x
        format, mode = (
            manager.formats.get(policy.format or ""),
            manager.modes.get(policy.mode or ""),
        )
        return Quantizer(format, mode).fake_quantize(x, axes).values

    def logits(chosen: dict[str, Policy]) -> Tensor:
        x, model = images.flatten(1), build()
        for name in ("1", "3"):
            layer, policy = model.get_submodule(name), chosen.get(name)
            assert isinstance(layer, nn.Linear)
            weight = q(layer.weight.detach(), policy, Axes.weight(2))
            x = F.linear(q(x, policy, Axes.features(2)), weight, layer.bias.detach())
            x = F.relu(x) if name == "1" else x
        return x

    images = torch.stack([image for image, _ in load("test")])
    p, y = logits({}), logits(choice)
    labels = torch.tensor([label for _, label in load("test")])
    divergence = F.kl_div(
        y.double().log_softmax(1), p.double().log_softmax(1), log_target=True, reduction="batchmean"
    )
    return float(divergence), 100 * float((y.argmax(1) == labels).double().mean())


CHOICES = [
    {},
    {"1": "coarse"},
    {"3": "coarse"},
    {"1": "coarse", "3": "fine"},
    {"1": "fine", "3": "fine"},
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_an_effect_is_what_arithmetic_says(
    manager: Manager, measured: Sensitivity, choice: dict[str, str]
) -> None:
    policies = {"coarse": COARSE, "fine": FINE}
    kl, top1 = by_hand(manager, {name: policies[p] for name, p in choice.items()})
    effect = measured.effect(choice)
    assert effect.kl == pytest.approx(kl, rel=1e-5, abs=1e-9)
    assert (effect.top1, effect.images) == (pytest.approx(top1), 10)


def test_each_layer_has_its_effects(manager: Manager, measured: Sensitivity) -> None:
    layers = {layer.layer: layer for layer in measured.layers("coarse")}
    assert set(layers) == {"1", "3"}
    one, whole = layers["1"], by_hand(manager, {"1": COARSE, "3": COARSE})
    assert one.kl_only == pytest.approx(by_hand(manager, {"1": COARSE})[0], rel=1e-5)
    assert one.kl_left_out == pytest.approx(by_hand(manager, {"3": COARSE})[0], rel=1e-5)
    assert one.kl_saved == pytest.approx(whole[0] - by_hand(manager, {"3": COARSE})[0], rel=1e-5)
    assert one.top1_drop_only == pytest.approx(
        by_hand(manager, {})[1] - by_hand(manager, {"1": COARSE})[1]
    )
    assert (one.weight_elements, one.multiply_adds, one.layer_type) == (768, 768, "Linear")
    assert one.weight_bits == pytest.approx(2 + 32 / 768)
    ranked = [layer.kl_only or 0.0 for layer in measured.layers("coarse")]
    assert ranked == sorted(ranked, reverse=True)


def test_a_second_run_measures_nothing(
    manager: Manager, measured: Sensitivity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = measured.layer_choices("coarse")
    seen: list[tuple[int, int]] = []
    measured.measure(choices, lambda done, of: seen.append((done, of)))
    # Float, whole, two alone; with two layers, leaving one out is having the other alone.
    assert seen == [(i, 4) for i in range(5)]
    before = measured.layers("coarse")
    lines = measured.journal.path.read_text().splitlines()
    measured.journal.path.write_text("\n".join(lines[:-1]) + '\n{"key": "torn')
    counted = []
    original = Sensitivity._measure
    monkeypatch.setattr(
        Sensitivity,
        "_measure",
        lambda self, choice: counted.append(choice) or original(self, choice),
    )
    again = make(manager, tmp_path)
    assert again.layers("coarse") == before
    assert len(counted) == 1


def test_bits_are_those_of_codes_and_scales(measured: Sensitivity) -> None:
    elements = {"1": 768, "3": 80}
    assert measured.elements == elements
    assert measured.mean_bits({}) == 32
    assert measured.mean_bits(measured.whole("fine")) == pytest.approx(8 + 32 / 4)
    mixed = (768 * 2 + 32 + 80 * (8 + 32 / 4)) / 848
    assert measured.mean_bits({"1": "coarse", "3": "fine"}) == pytest.approx(mixed)


@pytest.mark.parametrize("keep", ["float", "policy"])
def test_a_proposal_is_the_best_mix_within_the_budget(measured: Sensitivity, keep: str) -> None:
    rest = measured.whole("coarse") if keep == "policy" else {}
    names = ["coarse", "fine"]
    assert trials(measured, names, rest)["1"]["fine"] == {**rest, "1": "fine"}
    cheapest = measured.mean_bits(measured.whole("coarse"))
    assert cheapest is not None
    assert propose(measured, names, rest, cheapest) == measured.whole("coarse")
    assert propose(measured, names, rest, 16.1) == measured.whole("fine")
    # Between the two there is room for the finer small layer alone.
    assert propose(measured, names, rest, 4.0) == {"1": "coarse", "3": "fine"}
    with pytest.raises(SelectionError, match=r"got --bits 2, they take 2\.\d+ bits a weight"):
        propose(measured, names, rest, 2.0)


def test_a_layer_that_a_candidate_leaves_float_takes_32_bits(
    manager: Manager, tmp_path: Path
) -> None:
    head = Policy.model_validate({"name": "body", "format": "int2", "layers": {"3": "none"}})
    measured = make(manager, tmp_path, COARSE, head)
    assert measured.option_bits("3", "body") == 80 * 32
    assert measured.with_site("3", "body") == {}
    assert propose(measured, ["coarse", "body"], {}, 32.0) == {"1": "coarse"}


def test_the_written_policy_gives_each_layer_what_was_proposed(
    manager: Manager, measured: Sensitivity, tmp_path: Path
) -> None:
    choice = {"1": "coarse", "3": "fine"}
    path = tmp_path / "deep" / "mixed.yaml"
    write_policy(path, policy_text(measured, choice, "mixed", ["a note", "another"]))
    policy = read_policy(path)
    assert policy.name == "mixed"
    assert path.read_text().startswith("# a note\n# another\n")
    found = {
        a.site.name: {str(r): str(q) for r, q in a.quantizers.items()}
        for a in assign(policy, measured.subject.survey, manager)
        if a.quantizers
    }
    assert found == {
        "1": {"weight": "int2-tensor", "input": "int2-tensor"},
        "3": {"weight": "int8-chunk4", "input": "int8-chunk4"},
    }
    measured.add(policy)
    assert measured.effect(measured.whole("mixed")) == measured.effect(choice)
    assert measured.mean_bits(measured.whole("mixed")) == measured.mean_bits(choice)
    with pytest.raises(ResultsError, match="--out"):
        write_policy(tmp_path, "")


def test_static_scales_are_those_of_the_whole_policy(manager: Manager, tmp_path: Path) -> None:
    keys = {"name": "s", "format": "int8", "scales": "static", "calibration": {"images": 10}}
    measured = make(manager, tmp_path, Policy.model_validate(keys))
    images = torch.stack([image for image, _ in load("train")])
    (scales,) = measured.candidates["s"].scales["1"].values()
    assert scales.scale.flatten() == pytest.approx(float(images.abs().max()) / 127, rel=1e-6)
    assert measured.effect({"1": "s"}).images == 10
    text = policy_text(measured, {"1": "s"}, "p", [])
    (tmp_path / "p.yaml").write_text(text)
    policy = read_policy(tmp_path / "p.yaml")
    assert policy.static
    assert policy.calibration.images == 10


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"name": "other", "format": "int8", "scales": "static"}, "have the same scales"),
        (
            {"name": "other", "format": "int8", "fold_batch_norm": True},
            "have the same fold_batch_norm",
        ),
        ({"name": "coarse", "format": "int8"}, "two are called 'coarse'"),
    ],
)
def test_policies_that_cannot_be_mixed_are_refused(
    manager: Manager, tmp_path: Path, keys: Any, message: str
) -> None:
    with pytest.raises(SelectionError, match=message):
        make(manager, tmp_path, COARSE, Policy.model_validate(keys))


class Guest(nn.Module):
    """The model, with a mishap from its n-th forward on."""

    def __init__(self, mishap: Callable[[Tensor, Tensor], Tensor], first: int = 0) -> None:
        super().__init__()
        self.inner, self.mishap, self.first, self.calls = build(), mishap, first, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y: Tensor = self.inner(x)
        return self.mishap(x, y) if self.calls > self.first else y


def hungry(most: int) -> Callable[[Tensor, Tensor], Tensor]:
    def mishap(x: Tensor, y: Tensor) -> Tensor:
        if len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return y

    return mishap


def guest(
    make_manager: Callable[..., Manager], mishap: Callable[[Tensor, Tensor], Tensor], first: int = 0
) -> Manager:
    from qbench_suite import IntFormat

    data = DatasetEntry(name="noise", load=load, num_classes=5)
    int2 = IntFormat(name="int2", bits=2, low=-1, high=1)
    models = {"m": lambda: Guest(mishap, first)}
    return make_manager(models, datasets=[data], formats=[int2])


@pytest.mark.parametrize("scales", ["dynamic", "static"])
def test_memory_that_runs_out_halves_the_batch(
    manager: Manager, make_manager: Callable[..., Manager], tmp_path: Path, scales: str
) -> None:
    keys: dict[str, Any] = {"name": "s", "format": "int8", "mode": "chunk4"}
    if scales == "static":
        keys |= {"mode": "tensor", "scales": "static", "calibration": {"images": 10}}
    policy = Policy.model_validate(keys)
    expected = make(manager, tmp_path / "a", policy).layers("s")
    with pytest.warns(RuntimeWarning, match="memory ran out"):
        found = make(guest(make_manager, hungry(3)), tmp_path / "b", policy).layers("s")
    assert {x.batch for x in expected} == {10}
    assert {x.batch for x in found} == {2}
    for one, other in zip(found, expected, strict=True):
        assert one.layer == f"inner.{other.layer}"
        assert one.kl_only == pytest.approx(other.kl_only, rel=1e-4)
        assert (one.images, one.top1_only) == (10, other.top1_only)


def test_memory_for_no_image_is_an_error_of_its_own(
    make_manager: Callable[..., Manager], tmp_path: Path
) -> None:
    with (
        pytest.warns(RuntimeWarning, match="memory ran out"),
        pytest.raises(ConversionError, match="out of memory at one image"),
    ):
        make(guest(make_manager, hungry(0)), tmp_path)


def test_float_logits_that_are_not_finite_are_an_error(
    make_manager: Callable[..., Manager], tmp_path: Path
) -> None:
    measured = make(guest(make_manager, lambda x, y: y * torch.nan), tmp_path)
    with pytest.raises(ModelError, match="those of m are NaN or Inf for 10 of 10 images"):
        measured.layers("coarse")
    assert '"key"' not in measured.journal.path.read_text()


@pytest.mark.parametrize("first", [0, 1])
def test_what_a_plugin_raises_names_the_model_and_loses_nothing(
    make_manager: Callable[..., Manager], tmp_path: Path, first: int
) -> None:
    def broken(x: Tensor, y: Tensor) -> Tensor:
        raise ZeroDivisionError("by zero")

    manager = guest(make_manager, broken, first)
    with pytest.raises(QBenchError, match=r"by zero.*The model is m\."):
        make(manager, tmp_path).layers("coarse")
    kept = [line for f in tmp_path.glob("*.jsonl") for line in f.read_text().splitlines()]
    assert len(kept) == first, "the settings"


def test_what_a_layer_raises_names_the_model_and_loses_nothing(
    manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = make(manager, tmp_path)
    whole, made = Sensitivity._converted, []

    def converted(self: Sensitivity, *words: Any) -> Any:
        made.append(words)
        return whole(self, *words) if len(made) < 3 else 1 // 0

    monkeypatch.setattr(Sensitivity, "_converted", converted)
    with pytest.raises(ConversionError, match="m raised ZeroDivisionError"):
        measured.measure(measured.layer_choices("coarse"), lambda *_: None)
    assert len(measured.journal.path.read_text().splitlines()) == 1 + 2, "settings, two effects"


def test_a_table_says_what_it_was_measured_with(measured: Sensitivity) -> None:
    for layer in measured.layers("coarse"):
        assert (layer.model, layer.dataset, layer.images, layer.seed) == ("m", "noise", 10, 0)
        assert layer.policy_hash == COARSE.digest


def test_other_settings_have_another_key(manager: Manager, tmp_path: Path) -> None:
    changed = Policy(name="coarse", format="int2", mode="chunk4")
    keys = [
        make(manager, tmp_path).key(["coarse"]),
        make(manager, tmp_path).key(["coarse", "fine"]),
        make(manager, tmp_path).key(["coarse"], "policy"),
        make(manager, tmp_path, seed=1).key(["coarse"]),
        make(manager, tmp_path, images=5).key(["coarse"]),
        make(manager, tmp_path, dataset="random").key(["coarse"]),
        make(manager, tmp_path, changed).key(["coarse"]),
    ]
    assert len(set(keys)) == len(keys)
    assert make(manager, tmp_path).key(["coarse"]) == keys[0]


def test_a_policy_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mixed.yaml"
    path.write_text("before")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(ResultsError, match="full"):
        write_policy(path, "after")
    assert [file.name for file in tmp_path.iterdir()] == ["mixed.yaml"]
    assert path.read_text() == "before"
