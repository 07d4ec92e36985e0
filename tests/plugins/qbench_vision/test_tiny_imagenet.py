"""Tiny ImageNet in the layout of its archive, with three classes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qbench_suite import DatasetEntry, DatasetError
from qbench_suite.manager import Manager
from qbench_vision import tiny_imagenet

Jpeg = Callable[..., bytes]
CLASSES = ["n01443537", "n01629819", "n02124075"]
#: Validation image → its class; the red of image i is 10 i.
HELD_OUT = {"val_0.JPEG": 2, "val_1.JPEG": 0, "val_2.JPEG": 2, "val_3.JPEG": 1}


@pytest.fixture
def entry(manager: Manager) -> DatasetEntry:
    return manager.datasets.get("tiny-imagenet")


@pytest.fixture
def offered(server: Any, jpeg: Jpeg, data: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    files = {"wnids.txt": "\n".join(CLASSES).encode(), "words.txt": b"n01443537\tgoldfish\n"}
    for name in CLASSES:
        files[f"train/{name}/{name}_boxes.txt"] = b"\n"
        for number in range(2):
            files[f"train/{name}/images/{name}_{number}.JPEG"] = jpeg(100, (64, 64))
    lines = []
    for number, (file, label) in enumerate(HELD_OUT.items()):
        files[f"val/images/{file}"] = jpeg(10 * number, (64, 64))
        lines.append(f"{file}\t{CLASSES[label]}\t0\t0\t62\t62\n")
    files["val/val_annotations.txt"] = "".join(lines).encode()
    files["test/images/test_0.JPEG"] = jpeg(0, (64, 64))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file_name, content in files.items():
            archive.writestr(f"tiny-imagenet-200/{file_name}", content)
    offer = server.offer("tiny-imagenet-200.zip", buffer.getvalue())
    monkeypatch.setattr(tiny_imagenet, "ARCHIVE", offer)
    return server


def held_out(entry: DatasetEntry) -> list[tuple[int, int]]:
    """(red, label) of each held-out image, sorted."""
    assert entry.load_images
    images: Any = entry.load_images("test")
    return sorted((image.getpixel((9, 9))[0], label) for image, label in images)


EXPECTED = [(10 * number, label) for number, label in enumerate(HELD_OUT.values())]


def prepare(entry: DatasetEntry) -> Path:
    assert entry.prepare
    return entry.prepare()


def test_the_archive_is_the_published_one() -> None:
    assert tiny_imagenet.ARCHIVE.url == "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    assert tiny_imagenet.ARCHIVE.md5 == "90528d7ca1a48142e341f4ef8d21d0de"


def test_one_command_prepares_it(entry: DatasetEntry, offered: Any, data: Path) -> None:
    assert (entry.num_classes, entry.sparse_labels) == (200, False)
    assert prepare(entry) == data / "tiny-imagenet-200"
    assert held_out(entry) == EXPECTED
    train: Any = entry.load("train")
    assert [label for _, label in train] == [0, 0, 1, 1, 2, 2]
    assert train[0][0].shape == (3, 64, 64)
    prepare(entry)
    assert len(offered.asked) == 1


def test_killed_on_the_way_it_is_not_there_and_can_be_repeated(
    entry: DatasetEntry, offered: Any, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if self.name == "val_2.JPEG":
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(entry)
    assert not (data / "tiny-imagenet-200").exists()
    with pytest.raises(DatasetError, match="qbench data fetch tiny-imagenet"):
        entry.load("test")
    prepare(entry)
    assert held_out(entry) == EXPECTED
    assert not list(data.glob("*unpacking"))


def test_unpacked_by_hand_it_is_laid_out_in_place(
    entry: DatasetEntry, offered: Any, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tiny_imagenet, "lay_out_validation", lambda folder: None)
        prepare(entry)
    validation = data / "tiny-imagenet-200" / "val"
    with pytest.raises(DatasetError, match="or not whole"):
        entry.load("test")
    # As though a first laying out had been killed after one image.
    (validation / CLASSES[0]).mkdir()
    (validation / "images" / "val_1.JPEG").replace(validation / CLASSES[0] / "val_1.JPEG")
    prepare(entry)
    assert held_out(entry) == EXPECTED


@pytest.mark.parametrize("table", [None, "val_0.JPEG n01443537\n", "", "val_0.JPEG\tn01443537\n"])
def test_wrong_annotations(
    entry: DatasetEntry, offered: Any, data: Path, table: str | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_imagenet, "lay_out_validation", lambda folder: None)
        prepare(entry)
    annotations = data / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    annotations.unlink()
    if table is not None:
        annotations.write_text(table)
    with pytest.raises(DatasetError, match=r"names each image and its class; .* Delete"):
        prepare(entry)
