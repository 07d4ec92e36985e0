"""CIFAR in the layout of its authors, with two images a batch."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from qbench_suite import DatasetEntry, DatasetError
from qbench_suite.manager import Manager

CIFAR = {"cifar10": CIFAR10, "cifar100": CIFAR100}
LABELS = {"cifar10": "labels", "cifar100": "fine_labels"}


@pytest.fixture(params=list(CIFAR))
def entry(manager: Manager, request: pytest.FixtureRequest) -> DatasetEntry:
    return manager.datasets.get(request.param)


@pytest.fixture
def offered(entry: DatasetEntry, server: Any, data: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The server, with a small archive on it in the layout of the real one."""
    cifar: Any = CIFAR[entry.name]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:

        def add(name: str, content: dict[str, Any]) -> list[str]:
            pickled = pickle.dumps(content, protocol=2)
            member = tarfile.TarInfo(f"{cifar.base_folder}/{name}")
            member.size = len(pickled)
            archive.addfile(member, io.BytesIO(pickled))
            return [name, hashlib.md5(pickled).hexdigest()]

        def batch(name: str, value: int) -> list[str]:
            pixels = np.repeat(np.array([value, 0, 255], dtype=np.uint8), 1024)
            return add(name, {"data": np.stack([pixels, pixels]), LABELS[entry.name]: [value, 9]})

        train = [batch(name, i) for i, (name, _) in enumerate(cifar.train_list, start=1)]
        monkeypatch.setattr(cifar, "train_list", train)
        monkeypatch.setattr(cifar, "test_list", [batch(cifar.test_list[0][0], 0)])
        key = cifar.meta["key"]
        name, md5 = add(cifar.meta["filename"], {key: [str(i) for i in range(10)]})
        monkeypatch.setattr(cifar, "meta", {"filename": name, "key": key, "md5": md5})
    offer = server.offer(cifar.filename, packed.getvalue())
    monkeypatch.setattr(cifar, "url", offer.url)
    monkeypatch.setattr(cifar, "tgz_md5", offer.md5)
    return server


def prepare(entry: DatasetEntry) -> Path:
    assert entry.prepare
    return entry.prepare()


def test_one_command_prepares_it(entry: DatasetEntry, offered: Any, data: Path) -> None:
    assert entry.location
    assert prepare(entry) == entry.location() == data / CIFAR[entry.name].base_folder
    batches = len(CIFAR[entry.name].train_list)
    train: Any = entry.load("train")
    test: Any = entry.load("test")
    assert (len(train), len(test)) == (2 * batches, 2)
    image, label = train[0]
    assert (image.shape, image.dtype) == ((3, 32, 32), torch.float32)
    assert image.mean((1, 2)).tolist() == pytest.approx([1 / 255, 0, 1])
    assert label == 1
    assert [label for _, label in test] == [0, 9]
    assert entry.load_images
    images: Any = entry.load_images("train")
    assert images[0][0].getpixel((5, 5)) == (1, 0, 255)
    prepare(entry)
    assert len(offered.asked) == 1


def test_classes(manager: Manager) -> None:
    assert manager.datasets.get("cifar10").num_classes == 10
    assert manager.datasets.get("cifar100").num_classes == 100


def test_archive_put_there_by_hand(entry: DatasetEntry, offered: Any, data: Path) -> None:
    data.mkdir()
    name = CIFAR[entry.name].filename
    (data / name).write_bytes(offered.files.pop(f"/{name}"))
    prepare(entry)
    assert offered.asked == []
    assert len(entry.load("test")) == 2  # type: ignore[arg-type]


def test_absent(entry: DatasetEntry, data: Path) -> None:
    with pytest.raises(DatasetError, match=f"Run `qbench data fetch {entry.name}`, or set QBENCH"):
        entry.load("test")
    assert not data.exists()


def test_damaged_files_are_replaced(entry: DatasetEntry, offered: Any) -> None:
    path = prepare(entry) / CIFAR[entry.name].test_list[0][0]
    path.write_bytes(b"cut")
    with pytest.raises(DatasetError, match="or not whole"):
        entry.load("test")
    prepare(entry)
    assert len(entry.load("test")) == 2  # type: ignore[arg-type]
    assert len(offered.asked) == 1


def test_without_network(entry: DatasetEntry, offered: Any, data: Path) -> None:
    offered.statuses = [404]
    with pytest.raises(DatasetError, match=rf"answers .*404.* put it at {data}"):
        prepare(entry)
