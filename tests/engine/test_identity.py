"""Identity: an evaluation goes on from its own state only, not from that of other data or rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench_suite.datasets import DatasetEntry
from qbench_suite.engine import Engine, Selection, Settings
from qbench_suite.engine.batches import ImageSource
from qbench_suite.engine.evaluate import Pair
from qbench_suite.errors import BrokenImageError
from qbench_suite.models import ModelEntry
from qbench_suite.results import ModelRow
from qbench_suite.timing import Samples

POLICY = "format: int8\nscales: static\nscope: all\nact_format: int8\ncalibration: {images: 8}\n"
COUNT = 20


class Data:
    """Images and labels that a test changes; ``train`` is shifted."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.rand(COUNT, 3, 4, 4, generator=generator)
        self.labels = [index % 5 for index in range(COUNT)]
        self.train_shift = 0.0
        self.broken: tuple[int, ...] = ()

    def load(self, split: str) -> list[tuple[Tensor, int]]:
        shift = self.train_shift if split == "train" else 0.0
        return _Split(self, shift)  # type: ignore[return-value]


class _Split:
    def __init__(self, data: Data, shift: float) -> None:
        self._data, self._shift = data, shift

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index in self._data.broken:
            raise BrokenImageError(f"image {index} is cut short")
        return self._data.x[index] + self._shift, self._data.labels[index]


class Net(nn.Module):
    """One linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(x.flatten(1))
        return found


def untimed(function: Callable[[], object], before: Callable[[], object] | None = None) -> Samples:
    return Samples(())


Start = Callable[..., list[int]]


@pytest.fixture
def start(make_manager: Any, tmp_path: Path) -> Start:
    """``start(data, …)``: how many images were done after each batch of a run; ``…`` are settings."""
    (tmp_path / "p.yaml").write_text(POLICY)

    def start(data: Data, **settings: Any) -> list[int]:
        dataset = DatasetEntry(name="d", load=data.load, num_classes=5)  # type: ignore[arg-type]
        chosen: dict[str, Any] = {"eval_batch": 8, "dataset": "d", **settings}
        folder = tmp_path / "unfinished"
        engine = Engine(
            make_manager({"m": Net}, datasets=[dataset]), Settings(unfinished=folder, **chosen)
        )
        told: list[int] = []
        engine.progress = lambda case, done, total: told.append(done)
        (case,) = engine.model_cases(Selection(models="m", policies=str(tmp_path / "p.yaml")))
        assert isinstance(engine.run(case, untimed), ModelRow)
        return told

    return start


@pytest.fixture
def stopped(start: Start, monkeypatch: pytest.MonkeyPatch) -> Data:
    """The data of an evaluation that was interrupted in its second batch."""
    data, whole, calls = Data(), Pair.lockstep, []

    def stops(self: Pair, images: Tensor) -> Any:
        calls.append(images)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Pair, "lockstep", stops)
        with pytest.raises(KeyboardInterrupt):
            start(data)
    return data


def test_nothing_changed_goes_on(start: Start, stopped: Data) -> None:
    assert start(stopped) == [16, 20]


def test_changes_of_what_was_not_counted_yet_go_on(start: Start, stopped: Data) -> None:
    stopped.labels[8] = 0
    assert start(stopped) == [16, 20]


def _label(data: Data) -> None:
    data.labels[3] = 0


def _pixel(data: Data) -> None:
    data.x[4, 0, 0, 0] += 1e-3


def _order(data: Data) -> None:
    data.x[[0, 1]], data.labels[:2] = data.x[[1, 0]], [data.labels[1], data.labels[0]]


def _broken(data: Data) -> None:
    data.broken = (5,)


@pytest.mark.parametrize("change", [_label, _pixel, _order, _broken])
def test_changed_images_and_labels_start_over(
    start: Start, stopped: Data, change: Callable[[Data], None]
) -> None:
    change(stopped)
    with pytest.warns(RuntimeWarning, match="images or labels that it counted changed"):
        assert start(stopped) == [8, 16, 20]


def test_other_calibration_images_start_over(start: Start, stopped: Data) -> None:
    stopped.train_shift = 0.5
    with pytest.warns(RuntimeWarning, match=": calibration changed"):
        assert start(stopped) == [8, 16, 20]


def test_other_compliance_rules_start_over(start: Start, stopped: Data, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("tolerance: 1\n")
    with pytest.warns(RuntimeWarning, match=": compliance rules changed"):
        assert start(stopped, compliance=rules) == [8, 16, 20]


def test_content_does_not_depend_on_batches(make_manager: Any) -> None:
    data = Data()
    data.broken = (2,)
    dataset = DatasetEntry(name="d", load=data.load, num_classes=5)  # type: ignore[arg-type]
    entry = ModelEntry(name="m", build=Net, input_size=(3, 4, 4), num_classes=5)
    found = set()
    for size in (0, 1, 7, COUNT):
        source = ImageSource(make_manager(datasets=[dataset]), entry, "d")
        for _ in source.batches(size) if size else ():
            pass
        found.add((source.content(9), source.content(COUNT)))
    assert len(found) == 1
    ((part, whole),) = found
    assert part != whole
