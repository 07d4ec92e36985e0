"""``qbench data``: fetch, list and check, through the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from qbench_suite.cli import main

PLUGIN = """
from pathlib import Path

from qbench_suite import BrokenImageError, DatasetEntry, DatasetError, hookimpl

FOLDER = Path({folder!r})


class Images(list):
    def __getitem__(self, index):
        value = list.__getitem__(self, index)
        if isinstance(value, Exception):
            raise value
        return value


def load(split):
    if not FOLDER.exists():
        raise DatasetError("absent")
    return Images([("image", 0), ("image", 2), *BAD[split]])


BAD = {{"test": [], "train": [BrokenImageError("x.jpg is broken"), KeyError("y")]}}


def prepare():
    FOLDER.mkdir()
    (FOLDER / "x").write_bytes(b"0" * 1500)
    return FOLDER


def gone():
    raise DatasetError("its site is gone")


def wrong():
    raise ZeroDivisionError("oh")


def stopped():
    raise KeyboardInterrupt


@hookimpl
def qbench_register_datasets(register):
    def entry(name, prepare=None, load=load, **facts):
        register(DatasetEntry(name=name, load=load, num_classes=3, prepare=prepare, **facts))

    entry("good-one", prepare, location=lambda: FOLDER)
    entry("gone", gone)
    entry("wrong", wrong)
    entry("stopped", stopped)
    entry("shipped", location=lambda: FOLDER / "x")
    entry("empty", load=lambda split: [])
    entry("images", load=lambda split: 1 / 0, load_images=load)
"""


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    (tmp_path / "plugin.py").write_text(PLUGIN.format(folder=str(tmp_path / "made")))
    return f"--plugin={tmp_path / 'plugin.py'}"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("QBENCH_IMAGENET", raising=False)


def test_fetch_says_where_it_lies(
    plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "fetch", plugin, "good-one"]) == 0
    assert capsys.readouterr().out == f"good-one: {tmp_path / 'made'}\n"
    assert (tmp_path / "made" / "x").exists()


def test_one_that_fails_does_not_stop_the_others(
    plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "fetch", plugin, "gone", "wrong", "good-one"]) == 1
    captured = capsys.readouterr()
    assert captured.out == f"good-one: {tmp_path / 'made'}\n"
    first, second = captured.err.splitlines()
    assert first == "gone: its site is gone"
    assert second.startswith("wrong: A dataset's prepare() returns where it lies; that of wrong")
    assert "ZeroDivisionError: oh" in second


def test_unknown_name_is_told_before_anything_is_fetched(
    plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "fetch", plugin, "good-one", "good-two"]) == 2
    assert "Did you mean good-one?" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "where"), [("digits", "it is part of its plugin"), ("shipped", "made/x")]
)
def test_nothing_to_fetch(
    plugin: str, capsys: pytest.CaptureFixture[str], name: str, where: str
) -> None:
    assert main(["data", "fetch", plugin, name]) == 0
    assert re.fullmatch(f"{name}: nothing to fetch; .*{where}\n", capsys.readouterr().out)


def test_interrupted(plugin: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "fetch", plugin, "stopped"]) == 130
    assert capsys.readouterr().err == "Stopped. The same command goes on from here.\n"


def test_list_shows_what_is_there(
    plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed() -> dict[str, list[str]]:
        assert main(["data", "list", plugin]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert all(line == line.rstrip() for line in lines)
        cells = [re.split(r"  +", line) for line in lines]
        return {row[0]: row[1:] for row in cells}

    rows = listed()
    assert rows["dataset"] == ["classes", "there", "size", "where"]
    assert rows["good-one"] == ["3", "no", str(tmp_path / "made")]
    assert rows["imagenette-160"] == ["1000", "no", str(tmp_path / "data" / "imagenette2-160")]
    assert rows["digits"] == ["10", "yes", "with its plugin"]
    assert rows["folder:<path>"] == ["any"]
    main(["data", "fetch", plugin, "good-one"])
    capsys.readouterr()
    rows = listed()
    assert rows["good-one"] == ["3", "yes", "1.5 kB", str(tmp_path / "made")]
    assert rows["shipped"] == ["3", "yes", "1.5 kB", str(tmp_path / "made" / "x")]


def test_check_counts_and_names(plugin: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "fetch", plugin, "good-one"])
    capsys.readouterr()
    assert main(["data", "check", plugin, "good-one"]) == 0
    assert capsys.readouterr().out == "good-one, test: 2 images, 2 of 3 classes, 0 broken\n"
    assert main(["data", "check", plugin, "good-one", "--split", "train"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "x.jpg is broken",
        "image 3: KeyError: 'y'",
        "good-one, train: 4 images, 2 of 3 classes, 2 broken",
    ]


def test_check_of_a_wrong_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.csv").write_text("file,label\na.png,0\na.png,1\n")
    assert main(["data", "check", f"folder:{tmp_path}"]) == 1
    assert "labels.csv, line 3: a file has one label" in capsys.readouterr().out


def test_check_counts_no_class_without_a_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    assert main(["data", "check", f"folder:{tmp_path}"]) == 0
    assert "2 images, 0 classes, 0 broken" in capsys.readouterr().out
    (tmp_path / "labels.csv").write_text("file,label\na.png,7\nb.png,-1\n")
    assert main(["data", "check", f"folder:{tmp_path}"]) == 0
    assert "2 images, 1 classes, 0 broken" in capsys.readouterr().out


def test_check_decodes_images_where_there_are_any(
    plugin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["data", "fetch", plugin, "good-one"])
    assert main(["data", "check", plugin, "images"]) == 0


def test_check_of_nothing(plugin: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", plugin, "empty"]) == 1
    assert "empty, test: 0 images" in capsys.readouterr().out
    assert main(["data", "check", plugin, "good-one"]) == 2
    assert capsys.readouterr().err == "absent\n"
    assert main(["data", "check", "imagenette"]) == 2
    assert "qbench data fetch imagenette" in capsys.readouterr().err


def test_wrong_command_line() -> None:
    for arguments in (["data"], ["data", "fetch"], ["data", "check", "digits", "--split", "val"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
