"""Imagenette in the layout of its archives, with a few images a class."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from timm.data import ImageNetInfo
from torchvision.datasets import Imagenette

from qbench_suite import BrokenImageError, DatasetError
from qbench_suite.manager import Manager
from qbench_vision import imagenette

Jpeg = Callable[..., bytes]
NAMES = ["imagenette", "imagenette-320", "imagenette-160"]


def packed(folder: str, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def offered(server: Any, jpeg: Jpeg, data: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The server, with ``imagenette-160`` on it: one image to train, two held out a class."""
    files = {"noisy_imagenette.csv": b"path\n"}
    for number, wordnet_id in enumerate(sorted(imagenette.LABELS)):
        files[f"train/{wordnet_id}/{wordnet_id}_1.JPEG"] = jpeg(20 * number)
        for image in (3, 2):
            name = f"ILSVRC2012_val_0000000{image}.JPEG"
            files[f"val/{wordnet_id}/{name}"] = jpeg(20 * number + 10 * (image - 2))
    archive = server.offer("imagenette2-160.tgz", packed("imagenette2-160", files))
    monkeypatch.setitem(imagenette.ARCHIVES, "imagenette-160", archive)
    return server


def test_labels_are_those_of_imagenet() -> None:
    ids = ImageNetInfo("imagenet-1k").label_names()
    expected = {name: ids.index(name) for name in Imagenette._WNID_TO_CLASS}
    assert expected == imagenette.LABELS


def test_archives_are_those_of_torchvision() -> None:
    sizes = zip(NAMES, ("full", "320px", "160px"), strict=True)
    expected = {name: Imagenette._ARCHIVES[size] for name, size in sizes}
    assert {name: (a.url, a.md5) for name, a in imagenette.ARCHIVES.items()} == expected


def test_one_command_prepares_it(manager: Manager, offered: Any, data: Path) -> None:
    entry = manager.datasets.get("imagenette-160")
    assert (entry.num_classes, entry.sparse_labels) == (1000, True)
    assert entry.prepare
    assert entry.location
    assert entry.load_images
    assert entry.prepare() == entry.location() == data / "imagenette2-160"
    test: Any = entry.load("test")
    train: Any = entry.load("train")
    assert (len(test), len(train)) == (20, 10)
    labels = [label for _, label in train]
    assert labels == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
    assert [label for _, label in test] == sorted(labels * 2)
    images: Any = entry.load_images("test")
    assert [images[at][0].getpixel((0, 0))[0] for at in (0, 1)] == [0, 10]
    assert images[0][0].size == (6, 4)
    assert test[0][0].shape == (3, 4, 4)
    entry.prepare()
    assert len(offered.asked) == 1


def test_torchvision_reads_the_same_folder(manager: Manager, offered: Any, data: Path) -> None:
    entry = manager.datasets.get("imagenette-160")
    assert entry.prepare
    assert entry.load_images
    entry.prepare()
    ours: Any = entry.load_images("test")
    theirs = Imagenette(data, split="val", size="160px")
    assert len(ours) == len(theirs)
    for (image, label), (other, index) in zip(
        (ours[i] for i in range(20)), (theirs[i] for i in range(20)), strict=True
    ):
        assert image.tobytes() == other.tobytes()
        assert label == imagenette.LABELS[theirs.wnids[index]]


def test_broken_connection_goes_on(manager: Manager, offered: Any) -> None:
    offered.breaks = [1000]
    entry = manager.datasets.get("imagenette-160")
    assert entry.prepare
    entry.prepare()
    assert offered.asked == [None, "bytes=1000-"]
    assert len(entry.load("test")) == 20  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_absent(manager: Manager, data: Path, name: str) -> None:
    entry = manager.datasets.get(name)
    assert entry.location
    with pytest.raises(DatasetError, match=f"Run `qbench data fetch {name}`, or set QBENCH_DATA"):
        entry.load("test")
    entry.location().mkdir(parents=True)
    for split in ("val", "train"):
        (entry.location() / split).mkdir()
    with pytest.raises(DatasetError, match=r"holds none\. Delete"):
        entry.load("train")


def test_broken_image_is_named(manager: Manager, offered: Any, data: Path) -> None:
    entry = manager.datasets.get("imagenette-160")
    assert entry.prepare
    path = next((entry.prepare() / "val" / "n01440764").iterdir())
    path.write_bytes(path.read_bytes()[:-200])
    dataset: Any = entry.load("test")
    with pytest.raises(BrokenImageError, match=path.name):
        [dataset[index] for index in range(len(dataset))]
