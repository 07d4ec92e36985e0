"""Unfinished evaluations: found again for the same case and fingerprint, by nobody else."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from qbench_suite.engine.tally import LayerSums, Tally
from qbench_suite.engine.unfinished import Unfinished
from qbench_suite.metrics import AccuracySums, LogitDrift, error_sums, range_sums

FACTS = {"model": "f", "policy": "p"}


def tally() -> Tally:
    a, b = (torch.randn(6, 4, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    b[0, 0], labels = float("-inf"), torch.arange(6) % 4
    layers = {"x": LayerSums(error_sums(a, b), range_sums(a)), "y": LayerSums()}
    return Tally(
        7,
        4,
        ("image 3",),
        AccuracySums.of(b, labels),
        AccuracySums.of(a, labels),
        LogitDrift.of(a, b, labels),
        error_sums(a, b),
        layers,
    )


def test_state_is_found_again_and_gone_when_finished(tmp_path: Path) -> None:
    Unfinished(tmp_path / "deep", "m-p", FACTS).save(tally().to_json())
    again = Unfinished(tmp_path / "deep", "m-p", FACTS)
    state = again.load()
    assert state is not None
    assert Tally.from_json(state) == tally()
    again.finish()
    assert again.load() is None
    assert list((tmp_path / "deep").iterdir()) == []


def test_another_case_finds_nothing(tmp_path: Path) -> None:
    Unfinished(tmp_path, "m-p", FACTS).save({"position": 1})
    assert Unfinished(tmp_path, "m-q", FACTS).load() is None


def test_changed_facts_start_over_with_a_warning_that_names_them(tmp_path: Path) -> None:
    Unfinished(tmp_path, "m-p", FACTS).save({"position": 1})
    for facts in (FACTS | {"model": "g"}, {"policy": "p"}):
        with pytest.warns(RuntimeWarning, match="m-p starts over.*: model changed"):
            assert Unfinished(tmp_path, "m-p", facts).load() is None


def test_changed_images_start_over_with_a_warning(tmp_path: Path) -> None:
    asked: list[int] = []

    def content(images: int) -> str:
        asked.append(images)
        return "abc"

    Unfinished(tmp_path, "m-p", FACTS, content).save({"position": 7})
    assert Unfinished(tmp_path, "m-p", FACTS, content).load() == {"position": 7}
    assert asked == [7, 7]
    with pytest.warns(RuntimeWarning, match="images or labels that it counted changed"):
        assert Unfinished(tmp_path, "m-p", FACTS, lambda images: "abd").load() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"case": "m-p"}', "\x00"])
def test_a_damaged_file_counts_as_absent(tmp_path: Path, text: str) -> None:
    held = Unfinished(tmp_path, "m-p", FACTS)
    held.save({"position": 1})
    assert held.path is not None
    held.path.write_text(text)
    with pytest.warns(RuntimeWarning, match="cannot be read"):
        assert held.load() is None


def test_without_a_folder_nothing_is_kept() -> None:
    held = Unfinished(None, "m-p", FACTS)
    held.save({"position": 1})
    assert held.load() is None
    held.finish()


def test_a_full_disk_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    held = Unfinished(tmp_path / "file" / "x", "m-p", FACTS)
    with pytest.warns(RuntimeWarning, match="Free space"):
        held.save({"position": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held.save({"position": 2})
    held.finish()


def test_saves_are_due_after_an_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("qbench_suite.engine.unfinished.time.monotonic", lambda: now[0])
    held = Unfinished(tmp_path, "m-p", FACTS)
    assert not held.due()
    now[0] += 20
    assert held.due()
    held.save({"position": 1})
    assert not held.due()


def test_sums_of_parts_are_those_of_the_whole() -> None:
    both = tally() + tally()
    assert (both.position, both.batch, both.skipped) == (7, 4, ("image 3", "image 3"))
    assert both.accuracy.images == 12
    assert both.layers["x"].error.count == 2 * tally().layers["x"].error.count
    assert (Tally() + tally()) == tally()
