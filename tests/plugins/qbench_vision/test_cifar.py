"""CIFAR-10 in the layout of its authors, with two images a batch."""

from __future__ import annotations

import hashlib
import pickle
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from qbench_suite import DatasetError
from qbench_suite.manager import Manager
from qbench_vision.cifar import data_folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of datasets, cut off from the network."""

    def unreachable(*_arguments: Any, **_options: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setenv("QBENCH_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def batches(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its six batches and their names, with checksums of their own."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()

    def write(name: str, content: dict[str, Any]) -> list[str]:
        data = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch(name: str, value: int) -> list[str]:
        pixels = np.repeat(np.array([value, 0, 255], dtype=np.uint8), 1024)
        return write(name, {"data": np.stack([pixels, pixels]), "labels": [value, 9]})

    train = [batch(f"data_batch_{i}", i) for i in range(1, 6)]
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", [batch("test_batch", 0)])
    name, md5 = write("batches.meta", {"label_names": [str(i) for i in range(10)]})
    meta = {"filename": name, "key": "label_names", "md5": md5}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return folder


def test_splits(manager: Manager, batches: Path) -> None:
    entry = manager.datasets.get("cifar10")
    assert entry.num_classes == 10
    train: Any = entry.load("train")
    test: Any = entry.load("test")
    assert (len(train), len(test)) == (10, 2)
    image, label = train[2]
    assert (image.shape, image.dtype) == ((3, 32, 32), torch.float32)
    assert image.mean((1, 2)).tolist() == pytest.approx([2 / 255, 0, 1])
    assert label == 2
    assert [label for _, label in test] == [0, 9]


def test_absent_without_network(manager: Manager, root: Path) -> None:
    with pytest.raises(DatasetError) as error:
        manager.datasets.get("cifar10").load("test")
    assert str(root / "cifar-10-batches-py") in str(error.value)
    assert "cifar-10-python.tar.gz in" in str(error.value)
    assert "set QBENCH_DATA" in str(error.value)


def test_damaged_without_network(manager: Manager, batches: Path) -> None:
    (batches / "data_batch_3").write_bytes(b"cut")
    with pytest.raises(DatasetError, match="the download failed"):
        manager.datasets.get("cifar10").load("test")


def test_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QBENCH_DATA", raising=False)
    assert data_folder() == Path.home() / ".cache" / "qbench" / "data"
