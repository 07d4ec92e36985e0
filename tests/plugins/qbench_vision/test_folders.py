"""Folders of images: layouts, pixels, and images that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qbench_suite import DatasetError
from qbench_suite.datasets import DatasetEntry
from qbench_suite.engine.inputs import reference_images
from qbench_suite.manager import Manager
from qbench_suite.models import ModelEntry
from qbench_vision.folders import LIMIT
from qbench_vision.images import read_image

REAL = Path(__file__).parents[4] / "shared" / "data" / "imagenet_val1300"


def write(path: Path, value: int = 128, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    color: Any = {"L": value, "RGBA": (value, 0, 0, 0)}.get(mode, (value, 0, 0))
    Image.new(mode, size, color).save(path)
    return path


def open_folder(manager: Manager, path: Path) -> DatasetEntry:
    entry = manager.datasets.get(f"folder:{path}")
    assert entry.name == f"folder:{path}"
    return entry


def labels(entry: DatasetEntry, split: str = "test") -> list[int]:
    dataset: Any = entry.load(split)
    return [label for _, label in dataset]


def test_one_subfolder_a_class(manager: Manager, tmp_path: Path) -> None:
    write(tmp_path / "cat" / "1.png", 255)
    write(tmp_path / "dog" / "deep" / "2.JPG", 0)
    write(tmp_path / "dog" / "3.png", 0)
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    (tmp_path / ".thumbnails").mkdir()
    entry = open_folder(manager, tmp_path)
    assert entry.num_classes == 2
    assert labels(entry) == labels(entry, "train") == [0, 1, 1]
    dataset: Any = entry.load("test")
    image, label = dataset[0]
    assert image.shape == (3, 4, 4)
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    assert (image[0] == 1).all()
    assert (image[1:] == 0).all()
    assert isinstance(label, int)


def test_flat_folder_has_no_labels(manager: Manager, tmp_path: Path) -> None:
    write(tmp_path / "b.png")
    write(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    entry = open_folder(manager, tmp_path)
    assert labels(entry) == [-1, -1]


def test_flat_folder_means_no_classes(manager: Manager, tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    assert open_folder(manager, tmp_path).num_classes == 0


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_splits_share_their_labels(manager: Manager, tmp_path: Path, held_out: str) -> None:
    for name in ("ant", "bee", "cow"):
        write(tmp_path / "train" / name / "1.png")
    write(tmp_path / held_out / "cow" / "1.png")
    entry = open_folder(manager, tmp_path)
    assert entry.num_classes == 3
    assert labels(entry, "train") == [0, 1, 2]
    assert labels(entry, "test") == [2]


def test_val_comes_before_test(manager: Manager, tmp_path: Path) -> None:
    write(tmp_path / "test" / "1.png")
    write(tmp_path / "val" / "a" / "1.png")
    assert labels(open_folder(manager, tmp_path)) == [0]


@pytest.mark.parametrize(
    ("there", "asked", "message"),
    [("val", "train", "holds val but not train"), ("train", "test", "train but not val or test")],
)
def test_missing_split(
    manager: Manager, tmp_path: Path, there: str, asked: str, message: str
) -> None:
    write(tmp_path / there / "a" / "1.png")
    with pytest.raises(DatasetError, match=f"{message}. Add it, or pass folder:.*{there}"):
        open_folder(manager, tmp_path).load(asked)


def test_class_called_train(manager: Manager, tmp_path: Path) -> None:
    write(tmp_path / "plane" / "1.png")
    write(tmp_path / "train" / "1.png")
    assert labels(open_folder(manager, tmp_path)) == [0, 1]


def test_table_of_labels(manager: Manager, tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.png")
    write(tmp_path / "images" / "b.png")
    (tmp_path / "labels.csv").write_text("file,label\nb.png,7\na.png,3\n")
    entry = open_folder(manager, tmp_path)
    assert entry.num_classes == 8
    assert labels(entry) == [7, 3]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name,label\na.png,1\n", "KeyError: 'file'"),
        ("file,label\na.png,cat\n", "ValueError: invalid literal"),
        ("file,label\na.png\n", "TypeError"),
        ("file,label\n", "names none"),
    ],
)
def test_wrong_table(manager: Manager, tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(DatasetError, match=message):
        open_folder(manager, tmp_path)


def test_missing_folder(manager: Manager, tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"is a folder of images; .* is not a folder. Check the path"
    ):
        manager.datasets.get(f"folder:{tmp_path / 'absent'}")


def test_empty_folder(manager: Manager, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no file that ends in \.jpg.*Check the path"):
        open_folder(manager, tmp_path).load("test")


def test_unreadable_image_is_named_and_passed_over(manager: Manager, tmp_path: Path) -> None:
    write(tmp_path / "a.png", 0)
    (tmp_path / "b.png").write_bytes(b"no image")
    write(tmp_path / "c.png", 255)
    cut = write(tmp_path / "d.png", size=(200, 200))
    cut.write_bytes(cut.read_bytes()[:60])
    dataset: Any = open_folder(manager, tmp_path).load("test")
    assert len(dataset) == 4
    with pytest.warns(
        RuntimeWarning, match=r"skipped an unreadable image: .*b\.png \(Unidentified"
    ):
        assert dataset[1][0].max() == 1
    with pytest.warns(RuntimeWarning, match=r"d\.png"):
        assert dataset[3][0].max() == 0
    assert dataset[1][0].max() == 1
    assert dataset[-4][0].max() == 0
    with pytest.raises(IndexError):
        dataset[4]


@pytest.mark.filterwarnings("ignore:skipped")
def test_folder_without_readable_images(manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_bytes(b"")
    dataset: Any = open_folder(manager, tmp_path).load("test")
    with pytest.raises(
        DatasetError, match=r"of 2, these are: .*a\.png .*b\.png .*Replace or delete"
    ):
        dataset[0]


@pytest.mark.filterwarnings("ignore:skipped")
def test_limit_of_unreadable_images(manager: Manager, tmp_path: Path) -> None:
    for number in range(LIMIT + 1):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    write(tmp_path / "99.png")
    dataset: Any = open_folder(manager, tmp_path).load("test")
    assert dataset[1]
    with pytest.raises(DatasetError, match=f"At most {LIMIT} images"):
        dataset[0]


def test_pixels_of_every_mode(tmp_path: Path) -> None:
    gray = read_image(write(tmp_path / "l.png", 51, "L"))
    assert torch.equal(gray, torch.full((3, 4, 4), 51 / 255))
    clear = read_image(write(tmp_path / "rgba.png", 255, "RGBA"))
    assert clear.shape == (3, 4, 4)
    assert (clear[0] == 1).all()
    palette = Image.new("RGB", (4, 6), (0, 255, 0)).convert("P")
    palette.save(tmp_path / "p.png")
    assert (read_image(tmp_path / "p.png")[1] == 1).all()
    deep = np.full((5, 5), 32768, dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    expected = torch.full((3, 5, 5), 32768 / 65535)
    torch.testing.assert_close(read_image(tmp_path / "deep.png"), expected)


def test_the_middle_of_the_image_is_kept(tmp_path: Path) -> None:
    pixels = np.zeros((2, 6, 3), dtype=np.uint8)
    pixels[:, 2:4] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert torch.equal(read_image(tmp_path / "x.png"), torch.ones(3, 2, 2))


def test_engine_takes_its_inputs_from_a_folder(manager: Manager, tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "a" / f"{number}.png", size=(8 + number, 9))
    entry = ModelEntry(name="m", build=torch.nn.Identity, input_size=(3, 5, 5))
    images = reference_images(manager, entry, f"folder:{tmp_path}", batch=3, seed=0)
    assert images.shape == (3, 3, 5, 5)


def test_real_images(manager: Manager) -> None:
    if not REAL.is_dir():
        pytest.skip(f"the photographs are not at {REAL}")
    entry = open_folder(manager, REAL)
    dataset: Any = entry.load("test")
    assert len(dataset) == 1300
    assert entry.num_classes <= 1000
    image, label = dataset[0]
    assert image.shape == (3, 227, 227)
    assert label == 472
