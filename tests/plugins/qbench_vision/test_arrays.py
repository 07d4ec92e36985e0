"""Images in a NumPy archive: layouts, labels, and archives that are others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qbench_suite import DatasetEntry, DatasetError
from qbench_suite.manager import Manager

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 6), dtype=np.uint8)


def saved(manager: Manager, folder: Path, **arrays: Any) -> DatasetEntry:
    np.savez(folder / "a.npz", **arrays)
    return manager.datasets.get(f"npz:{folder / 'a.npz'}")


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("channels", [3, 1])
def test_either_layout(manager: Manager, tmp_path: Path, last: bool, channels: int) -> None:
    x = PIXELS[:, :channels]
    entry = saved(
        manager, tmp_path, x=x.transpose(0, 2, 3, 1) if last else x, y=np.array([0, 2, 1, 2])
    )
    assert (entry.num_classes, entry.sparse_labels, entry.prepare) == (3, False, None)
    assert entry.load_images
    for split in ("train", "test"):
        tensors: Any = entry.load(split)
        images: Any = entry.load_images(split)
        assert len(tensors) == len(images) == 4
        assert [tensors[i][1] for i in range(4)] == [images[i][1] for i in range(4)] == [0, 2, 1, 2]
        assert isinstance(tensors[0][1], int)
        for number in range(4):
            expected = torch.from_numpy(x[number].astype(np.float32) / np.float32(255))
            assert torch.equal(tensors[number][0], expected)
            rgb = np.asarray(images[number][0]).transpose(2, 0, 1)
            assert np.array_equal(rgb, np.broadcast_to(x[number], rgb.shape))


def test_three_columns_are_not_taken_for_channels(manager: Manager, tmp_path: Path) -> None:
    x = PIXELS.transpose(0, 1, 3, 2)[..., :3]
    tensors: Any = saved(manager, tmp_path, x=x, y=np.zeros(4, dtype=np.uint8)).load("test")
    assert tensors[0][0].shape == (3, 6, 3)


def test_labels_with_gaps_are_those_of_a_larger_set(manager: Manager, tmp_path: Path) -> None:
    entry = saved(manager, tmp_path, x=PIXELS, y=np.array([7, 3, 3, 0]))
    assert (entry.num_classes, entry.sparse_labels) == (8, True)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": PIXELS}, "KeyError"),
        ({"y": np.arange(4)}, "KeyError"),
        ({"x": PIXELS.astype(np.float32), "y": np.arange(4)}, "x is float32"),
        ({"x": PIXELS, "y": np.arange(5)}, r"y is int64 \(5,\)"),
        ({"x": PIXELS, "y": np.arange(4.0)}, "y is float64"),
        ({"x": PIXELS, "y": np.arange(4) - 1}, "y below 0"),
        ({"x": PIXELS[:, :2], "y": np.arange(4)}, r"x is uint8 \(4, 2, 5, 6\)"),
        ({"x": PIXELS[:, 0], "y": np.arange(4)}, r"x is uint8 \(4, 5, 6\)"),
        ({"x": PIXELS[:0], "y": np.arange(0)}, "empty"),
        ({"x": PIXELS, "y": np.array([object()] * 4)}, "ValueError"),
    ],
)
def test_other_arrays(manager: Manager, tmp_path: Path, arrays: Any, said: str) -> None:
    with pytest.raises(DatasetError, match=rf"An npz dataset holds x, .*a\.npz does not .*{said}"):
        saved(manager, tmp_path, **arrays)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04cut"])
def test_no_archive(manager: Manager, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.npz does not"):
        manager.datasets.get(f"npz:{tmp_path / 'a.npz'}")


def test_missing_file(manager: Manager) -> None:
    with pytest.raises(DatasetError, match=r"'/x/a\.npz' does not exist. Check the path"):
        manager.datasets.get("npz:/x/a.npz")
