"""Folders of images: layouts, pixels, and images that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from qbench_suite import BrokenImageError, DatasetError
from qbench_suite.datasets import DatasetEntry
from qbench_suite.engine.inputs import reference_images
from qbench_suite.manager import Manager
from qbench_suite.models import ModelEntry

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
        ("name,label\na.png,1\n", "line 1: columns are file and label; got 'name', 'label'"),
        ("file;label\na.png;1\n", "line 1: columns are file and label; got 'file;label'"),
        ("", "line 1: columns are file and label; got no headings"),
        ("file,label\na.png,cat\n", "line 2: a label is an integer .* got 'cat'"),
        ("file,label\na.png,1.0\n", "line 2: a label is an integer .* got '1.0'"),
        ("file,label\na.png,1_0\n", "line 2: a label is an integer .* got '1_0'"),
        ("file,label\na.png,-2\n", "line 2: a label is an integer .* got '-2'"),
        ("file,label\na.png,2147483648\n", "from 0 to 2147483647, .* got '2147483648'"),
        ("file,label\na.png\n", "line 2: a label is an integer .* got None"),
        ("file,label\n,1\n", "line 2: a file is named by its path within .* got ''"),
        ("file,label\n\na.png,1\n/a.png,1\n", "line 4: a file is named .* got '/a.png'"),
        ("file,label\nb/../../a.png,1\n", "line 2: a file is named .* got 'b/../../a.png'"),
        ("file,label\na.png,1\n./a.png,2\n", "line 3: a file has one label; got 2 for a.png, 1"),
        ("file,label\n", "names none"),
    ],
)
def test_wrong_table(manager: Manager, tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(DatasetError, match=message):
        open_folder(manager, tmp_path)


def test_table_of_a_spreadsheet(manager: Manager, tmp_path: Path) -> None:
    for name in ("a", "b", "..c"):
        write(tmp_path / f"{name}.png")
    table = "file,label\r\na.png,2147483647\r\nb.png,-1\r\n..c.png,0\r\na.png,2147483647\r\n"
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf" + table.encode())
    assert labels(open_folder(manager, tmp_path)) == [2**31 - 1, -1, 0, 2**31 - 1]


def test_table_that_is_not_utf8(manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes("file,label\nä.png,1\n".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"it is CSV in UTF-8; got .* Mend the table"):
        open_folder(manager, tmp_path)


def test_missing_folder(manager: Manager, tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"is a folder of images; .* is not a folder. Check the path"
    ):
        manager.datasets.get(f"folder:{tmp_path / 'absent'}")


def test_empty_folder(manager: Manager, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no file that ends in \.jpg.*Check the path"):
        open_folder(manager, tmp_path).load("test")


def test_broken_image_is_named(manager: Manager, tmp_path: Path) -> None:
    write(tmp_path / "a.png", 0)
    (tmp_path / "b.png").write_bytes(b"no image")
    write(tmp_path / "c.png", 255)
    entry = open_folder(manager, tmp_path)
    assert entry.load_images
    for load in (entry.load, entry.load_images):
        dataset: Any = load("test")
        assert len(dataset) == 3
        for _ in range(2):
            with pytest.raises(
                BrokenImageError, match=r"b\.png does not \(Unidentified.* Replace it"
            ):
                dataset[1]
        assert dataset[2][1] == dataset[-1][1] == -1
        with pytest.raises(IndexError):
            dataset[3]


def test_images_come_in_the_order_of_the_tensors(manager: Manager, tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "ant", "bee")):
        write(tmp_path / name / "1.png", 50 * number)
    entry = open_folder(manager, tmp_path)
    assert entry.load_images
    images: Any = entry.load_images("test")
    tensors: Any = entry.load("test")
    assert [label for _, label in images] == [label for _, label in tensors] == [0, 1, 2]
    reds = [image.getpixel((0, 0))[0] for image, _ in images]
    assert reds == [round(255 * float(tensor[0, 0, 0])) for tensor, _ in tensors] == [50, 100, 0]


def test_only_a_table_makes_labels_sparse(manager: Manager, tmp_path: Path) -> None:
    write(tmp_path / "cat" / "1.png")
    assert not open_folder(manager, tmp_path).sparse_labels
    (tmp_path / "labels.csv").write_text("file,label\ncat/1.png,7\n")
    entry = open_folder(manager, tmp_path)
    assert entry.sparse_labels
    assert entry.location
    assert entry.location() == tmp_path
    assert entry.prepare is None


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
