"""Evaluation against brute force over all images at once; memory that runs out; kill and resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench_suite import (
    DatasetEntry,
    DatasetError,
    Manager,
    ModelEntry,
    ModelError,
    Quantizer,
    Role,
)
from qbench_suite.convert.assign import Assignment
from qbench_suite.convert.survey import survey
from qbench_suite.convert.swap import convert
from qbench_suite.convert.watch import watching
from qbench_suite.engine.batches import ImageSource
from qbench_suite.engine.evaluate import Evaluation, Pair
from qbench_suite.engine.fp32 import FloatLogits
from qbench_suite.engine.halving import Halving
from qbench_suite.engine.tally import Tally
from qbench_suite.engine.unfinished import Unfinished
from qbench_suite.errors import BrokenImageError, ConversionError

MakeManager = Callable[..., Manager]
MakeEvaluation = Callable[..., Evaluation]
COUNT = 23


class Images:
    """Fixed random images with labels; some cannot be read."""

    def __init__(self, broken: tuple[int, ...] = (), label: Callable[[int], int] = lambda i: i % 5):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.rand(COUNT, 3, 4, 4, generator=generator)
        self.broken, self.label = broken, label

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index in self.broken:
            raise BrokenImageError(f"image {index} is cut short")
        return self.x[index], self.label(index)


class Shared(nn.Module):
    """A network with a residual add, an activation used twice, and in-place work."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.flatten = nn.Flatten()
        self.first, self.second = nn.Linear(48, 8), nn.Linear(8, 8)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(self.flatten(x)))
        return self.head(self.act(x + self.second(x)))  # type: ignore[no-any-return]


@pytest.fixture
def make_evaluation(make_manager: MakeManager, tmp_path: Path) -> MakeEvaluation:
    """``make_evaluation(data, build=…, batch=…, layerwise=…, folder=…, wrap=…)``."""

    def make(
        data: Any = None,
        *,
        build: Callable[[], nn.Module] = Shared,
        batch: int = 8,
        layerwise: bool = True,
        broken_limit: int = 3,
        folder: Path | None = None,
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
        classes: int = 5,
    ) -> Evaluation:
        data = Images() if data is None else data
        dataset = DatasetEntry(name="d", load=lambda split: data, num_classes=classes)
        manager = make_manager(datasets=[dataset])
        original = build().eval()
        entry = ModelEntry(name="m", build=build, input_size=(3, 4, 4), num_classes=5)
        source = ImageSource(manager, entry, "d")
        found = survey(original, torch.rand(2, 3, 4, 4), manager)
        quantizer = Quantizer(manager.formats.get("int8"), manager.modes.get("tensor"))
        given = {Role.WEIGHT: quantizer, Role.INPUT: quantizer}
        assignments = [
            Assignment(site, given if site.twin and site.adds else {}, "" if site.adds else "float")
            for site in found.sites
        ]
        converted = convert(original, found, assignments)
        return Evaluation(
            pair=Pair(original, wrap(converted), found, torch.device("cpu")),
            source=source,
            floats=FloatLogits("m", "f", None),
            batch=batch,
            layerwise=layerwise,
            broken_limit=broken_limit,
            unfinished=Unfinished(folder, "m-p", {"model": "f"}),
            progress=lambda done, total: None,
            halving=Halving(torch.device("cpu")),
        )

    return make


def sums(tally: Tally) -> dict[str, float]:
    """Everything but how the images were batched, flat."""
    state = tally.to_json()
    for key in ("batch", "position", "skipped"):
        del state[key]

    def flat(prefix: str, value: Any) -> Iterator[tuple[str, float]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from flat(f"{prefix}/{key}", inner)
        else:
            yield prefix, value

    return dict(flat("", state))


@pytest.mark.parametrize("layerwise", [True, False])
@pytest.mark.parametrize("batch", [1, 8, 64])
def test_sums_are_those_of_all_images_at_once(
    make_evaluation: MakeEvaluation, batch: int, layerwise: bool
) -> None:
    evaluation = make_evaluation(batch=batch, layerwise=layerwise)
    tally, pair, x = evaluation.run(), evaluation.pair, Images().x
    with torch.no_grad():
        r = pair.original(x).double().numpy()
        parts = [pair.converted(part) for part in torch.split(x, batch)]
        y = torch.cat(parts).double().numpy()
    labels = np.arange(COUNT) % 5
    right, now = r.argmax(1) == labels, y.argmax(1) == labels
    assert tally.accuracy.images == COUNT
    assert (tally.reference.top1, tally.accuracy.top1) == (right.sum(), now.sum())
    assert (tally.accuracy.top5, tally.reference.top5) == (COUNT, COUNT)
    assert tally.drift.lost == (right & ~now).sum()
    assert tally.drift.gained == (~right & now).sum()
    assert tally.drift.agreeing == (r.argmax(1) == y.argmax(1)).sum()
    p, q = (np.exp(t) / np.exp(t).sum(1, keepdims=True) for t in (r, y))
    assert tally.drift.divergence == pytest.approx((p * np.log(p / q)).sum(), rel=1e-3)
    assert tally.accuracy.certainty == pytest.approx(q.max(1).sum(), rel=1e-6)
    assert tally.error.noise == pytest.approx(((y - r) ** 2).sum(), rel=1e-4)
    assert tally.position == COUNT
    assert bool(tally.layers) is layerwise


def calls_of(model: nn.Module, pair: Pair) -> list[tuple[str, Tensor, Tensor]]:
    """Site, first input and output of each call in one forward of all images."""
    found: list[tuple[str, Tensor, Tensor]] = []

    def watch(site: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((site, inputs[0].clone(), output.clone()))

    with torch.no_grad(), watching(model, pair.survey, watch):
        model(Images().x)
    return found


def test_each_site_is_compared_with_itself_in_the_float_model(
    make_evaluation: MakeEvaluation,
) -> None:
    evaluation = make_evaluation(batch=64)
    tally, pair = evaluation.run(), evaluation.pair
    floats, converted = calls_of(pair.original, pair), calls_of(pair.converted, pair)
    assert [name for name, _, _ in floats] == [name for name, _, _ in converted]
    expected: dict[str, list[float]] = {}
    for (name, _, r), (_, read, y) in zip(floats, converted, strict=True):
        noise, low = float(((y - r).double() ** 2).sum()), float(read.min())
        before = expected.get(name, [0.0, math.inf])
        expected[name] = [before[0] + noise, min(before[1], low)]
    found = {name: [s.error.noise, s.input.low] for name, s in tally.layers.items()}
    assert set(found) == set(expected)
    assert {"first", "act", "second", "head"} <= set(found)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-6), name
    assert tally.layers["act"].error.count == 2 * COUNT * 8, "called twice"
    assert tally.layers["first"].error.noise > 0


def test_float_logits_are_computed_once(make_evaluation: MakeEvaluation) -> None:
    evaluation = make_evaluation(layerwise=False)
    calls = []
    evaluation.pair.original.register_forward_hook(lambda *_: calls.append(1))
    first = evaluation.run()
    assert len(calls) == 3
    assert evaluation.run() == first
    assert len(calls) == 3
    lockstep = make_evaluation(layerwise=True)
    lockstep.run()
    assert lockstep.floats.get(Images().x) is not None, "the lock-step fills the cache"


class OutOfMemory(nn.Module):
    """Cannot take more than so many images."""

    def __init__(self, inner: nn.Module, most: int, error: Callable[[], Exception]) -> None:
        super().__init__()
        self.inner, self.most, self.error = inner, most, error

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if len(x) > self.most:
            raise self.error()
        return y  # type: ignore[no-any-return]


def wrapped() -> Exception:
    error = ConversionError("A site raised.")
    error.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    return error


ERRORS: dict[str, Callable[[], Exception]] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "cpu": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    "windows": lambda: RuntimeError("DefaultCPUAllocator: not enough memory: you tried"),
    "python": MemoryError,
    "wrapped": wrapped,
}


@pytest.mark.parametrize("kind", ERRORS)
def test_a_batch_that_needs_too_much_memory_is_halved_and_counted_once(
    make_evaluation: MakeEvaluation, kind: str
) -> None:
    expected = make_evaluation(batch=2, layerwise=False).run()
    evaluation = make_evaluation(
        batch=8, layerwise=False, wrap=lambda m: OutOfMemory(m, 3, ERRORS[kind])
    )
    with pytest.warns(RuntimeWarning, match="memory ran out") as caught:
        tally = evaluation.run()
    assert len([w for w in caught if "memory ran out" in str(w.message)]) == 2, "8, then 4"
    assert tally.batch == 2
    assert sums(tally) == pytest.approx(sums(expected), rel=1e-5)


def test_one_image_that_needs_too_much_memory_is_an_error(make_evaluation: MakeEvaluation) -> None:
    evaluation = make_evaluation(
        batch=4, layerwise=False, wrap=lambda m: OutOfMemory(m, 0, ERRORS["cpu"])
    )
    with (
        pytest.warns(RuntimeWarning, match="memory ran out"),
        pytest.raises(ConversionError, match="memory for one image"),
    ):
        evaluation.run()


class Interrupting(nn.Module):
    """Raises at its n-th forward, once."""

    def __init__(self, inner: nn.Module, at: int, error: type[BaseException]) -> None:
        super().__init__()
        self.inner, self.left, self.error = inner, at, error

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if not self.left:
            raise self.error("stop")
        return self.inner(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("at", [1, 3, 6])
def test_an_evaluation_that_was_stopped_goes_on_where_it_was(
    make_evaluation: MakeEvaluation, tmp_path: Path, at: int, error: type[BaseException]
) -> None:
    expected = make_evaluation(batch=4, layerwise=False).run()
    stopped = make_evaluation(
        batch=4, layerwise=False, folder=tmp_path, wrap=lambda m: Interrupting(m, at, error)
    )
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else ModelError):
        stopped.run()
    again = make_evaluation(batch=4, layerwise=False, folder=tmp_path)
    done: list[int] = []
    again.progress = lambda images, total: done.append(images)
    tally = again.run()
    assert tally.to_json() == expected.to_json()
    assert done[0] == min(4 * at, COUNT), "what was done is not done again"
    assert done[-1] == COUNT


def test_state_is_kept_on_the_way(
    make_evaluation: MakeEvaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = make_evaluation(batch=4, folder=tmp_path)
    monkeypatch.setattr(evaluation.unfinished, "due", lambda: True)
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        state = evaluation.unfinished.load()
        seen.append(state["position"] if state else 0)

    evaluation.progress = progress
    tally = evaluation.run()
    assert seen == [0, 4, 8, 12, 16, 20]
    held = evaluation.unfinished.load()
    assert held is not None
    assert Tally.from_json(held) == tally


def test_images_that_cannot_be_read_are_left_out_up_to_a_limit(
    make_evaluation: MakeEvaluation,
) -> None:
    tally = make_evaluation(Images(broken=(2, 9, 10))).run()
    assert tally.accuracy.images == COUNT - 3
    assert tally.skipped == tuple(f"image {i} is cut short" for i in (2, 9, 10))
    with pytest.raises(DatasetError, match="At most 3") as caught:
        make_evaluation(Images(broken=(2, 9, 10, 11))).run()
    assert all(f"image {i}" in str(caught.value) for i in (2, 9, 10, 11))
    with pytest.raises(DatasetError, match="of 23 none can"):
        make_evaluation(Images(broken=tuple(range(COUNT))), broken_limit=99).run()


@pytest.mark.parametrize(("label", "said"), [(-1, "without a label"), (5, "the label 5")])
def test_labels_that_are_no_classes_are_an_error(
    make_evaluation: MakeEvaluation, label: int, said: str
) -> None:
    with pytest.raises(DatasetError, match=said):
        make_evaluation(Images(label=lambda i: label if i == 20 else 0)).run()


def test_without_labels_all_but_accuracy_is_there(make_evaluation: MakeEvaluation) -> None:
    tally = make_evaluation(classes=0).run()
    assert (tally.accuracy.images, tally.accuracy.labelled) == (COUNT, 0)
    assert tally.drift.compared == COUNT
    assert tally.error.count == COUNT * 5


class Spoiling(nn.Module):
    """Makes the logits of some images NaN or Inf."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x).clone()
        y[0, 0], y[0, 1] = math.nan, math.inf
        return y


def test_logits_that_are_not_finite_are_counted_and_the_others_measured(
    make_evaluation: MakeEvaluation,
) -> None:
    tally = make_evaluation(batch=8, layerwise=False, wrap=Spoiling).run()
    assert (tally.error.nonfinite, tally.error.count) == (3 * 2, COUNT * 5 - 6)
    assert (tally.accuracy.nonfinite, tally.accuracy.certain) == (6, COUNT - 3)
    assert tally.reference.nonfinite == 0
    assert math.isfinite(tally.error.noise)
    assert tally.drift.compared == COUNT - 3


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (lambda y: (y, y), "gave tuple"),
        (lambda y: y[0], r"gave \(5,\)"),
        (lambda y: y[9, 9], "IndexError"),
    ],
)
def test_a_model_that_gives_no_logits_is_an_error(
    make_evaluation: MakeEvaluation, result: Callable[[Tensor], Any], said: str
) -> None:
    class Odd(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Any:
            return result(self.inner(x))

    with pytest.raises(ModelError, match=said):
        make_evaluation(layerwise=False, wrap=Odd).run()
