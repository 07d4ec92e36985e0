"""The journal of effects: measured once, whatever ends the process."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from qbench_suite.engine.effects import Effect, EffectJournal
from qbench_suite.errors import ResultsError

SETTINGS = {"model": "m", "images": 8}


def never() -> Effect:
    raise AssertionError("measured again")


def test_what_is_known_is_not_measured_again(tmp_path: Path) -> None:
    effects = {
        "a": Effect(0.5, 90.0, 8, 8),
        "b": Effect(math.inf, None, 8, 8),
        "c": Effect(None, 0.0, 8, 8),
    }
    journal = EffectJournal(tmp_path, SETTINGS)
    for key, effect in effects.items():
        assert journal.get(key, "", lambda effect=effect: effect) == effect  # type: ignore[misc]
        assert journal.get(key, "", never) == effect
    again = EffectJournal(tmp_path, SETTINGS)
    assert {key: again.get(key, "", never) for key in effects} == effects
    assert "a" in again
    assert "d" not in again


def test_other_settings_know_nothing_of_it(tmp_path: Path) -> None:
    EffectJournal(tmp_path, SETTINGS).get("a", "", lambda: Effect(1.0, 1.0, 8, 8))
    assert "a" not in EffectJournal(tmp_path, {**SETTINGS, "images": 9})


@pytest.mark.parametrize("lost", range(1, 40, 3))
def test_a_line_cut_short_loses_itself_alone(tmp_path: Path, lost: int) -> None:
    journal = EffectJournal(tmp_path, SETTINGS)
    journal.get("a", "", lambda: Effect(1.0, 1.0, 8, 8))
    journal.get("b", "", lambda: Effect(2.0, 2.0, 8, 8))
    text = journal.path.read_bytes()
    journal.path.write_bytes(text[:-lost])
    again = EffectJournal(tmp_path, SETTINGS)
    assert "a" in again
    if lost > 1:
        assert "b" not in again
    again.get("b", "", lambda: Effect(3.0, 3.0, 8, 8))
    expected = 2.0 if lost == 1 else 3.0
    assert EffectJournal(tmp_path, SETTINGS).get("b", "", never).kl == expected


def test_what_fails_is_not_kept(tmp_path: Path) -> None:
    journal = EffectJournal(tmp_path, SETTINGS)
    with pytest.raises(AssertionError, match="again"):
        journal.get("a", "", never)
    assert "a" not in EffectJournal(tmp_path, SETTINGS)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match=r"file.*--results"):
        EffectJournal(tmp_path / "file" / "x", SETTINGS)
