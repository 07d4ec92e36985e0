"""Writing: whole files or none, and folder names that any file system takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbench_suite import ResultsError
from qbench_suite.report.writing import folder_names, write


def test_a_file_replaces_the_one_before_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "report.txt"
    assert write(path, "old") == path
    write(path, "new ✓ \udcff")
    assert path.read_text(encoding="utf-8") == "new ✓ \\udcff"
    assert [p.name for p in path.parent.iterdir()] == ["report.txt"]


def test_a_full_disk_leaves_the_file_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "report.txt", "old")

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResultsError, match=r"No space left on device.*qbench report"):
        write(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "report.txt").mkdir()
    with pytest.raises(ResultsError, match=r"report\.txt"):
        write(tmp_path / "report.txt", "text")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("deit_tiny_patch16_224", "deit_tiny_patch16_224"),
        ("timm:resnet18", "timm.resnet18"),
        ("policies/mine.yaml", "mine"),
        ("w4a8-mx32", "w4a8-mx32"),
        ("../../etc/passwd", "etc.passwd"),
    ],
)
def test_names_stay_readable(name: str, folder: str) -> None:
    assert folder_names([name]) == {name: folder}


HOSTILE = ["", ".", "..", "/", "a/..", "con", "NUL.txt", "unfinished", "report.html", "models.csv",
           "benchmark.json", "x" * 300, "🙂", "\x00", "-rf", "a b", "<script>"]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_become_folders_of_their_own(name: str, tmp_path: Path) -> None:
    folder = folder_names([name])[name]
    made = tmp_path / folder
    made.mkdir()
    assert made.parent == tmp_path
    assert made.resolve().parent == tmp_path.resolve()
    assert len(folder) <= 100
    assert folder.lower() not in {
        "con",
        "unfinished",
        "report.html",
        "models.csv",
        "benchmark.json",
    }


def test_names_that_meet_are_told_apart_whatever_their_order() -> None:
    names = ["a:b", "a.b", "A.B", "a/b"]
    folders = folder_names(names)
    assert len({folder.lower() for folder in folders.values()}) == 4
    assert folders == folder_names(reversed(names))
    assert folders["A.B"] == "A.B"
