"""ImageNet's validation images in every layout, three classes and six images of them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat
from torchvision.datasets import imagenet as archives

from qbench_suite import DatasetEntry, DatasetError
from qbench_suite.manager import Manager

Jpeg = Callable[..., bytes]
#: WordNet id → its index among the thousand.
CLASSES = {"n01440764": 0, "n02102040": 217, "n03888257": 701}
IDS = list(CLASSES)
#: Class of image 1, 2, …; the red of image i is 10 i.
TRUTH = [2, 0, 0, 1, 2, 1]
EXPECTED = [(10 * number, CLASSES[IDS[at]]) for number, at in enumerate(TRUTH, start=1)]
FILES = [f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 7)]


@pytest.fixture
def entry(manager: Manager) -> DatasetEntry:
    return manager.datasets.get("imagenet-val")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QBENCH_IMAGENET", str(tmp_path / "imagenet"))
    (tmp_path / "imagenet").mkdir()
    return tmp_path / "imagenet"


def found(entry: DatasetEntry, split: str = "test") -> list[tuple[int, int]]:
    """(red, label) of each image, sorted."""
    assert entry.load_images
    images: Any = entry.load_images(split)
    tensors: Any = entry.load(split)
    assert [label for _, label in images] == [label for _, label in tensors]
    return sorted((image.getpixel((0, 0))[0], label) for image, label in images)


def prepare(entry: DatasetEntry) -> Path:
    assert entry.prepare
    return entry.prepare()


def in_classes(folder: Path, jpeg: Jpeg) -> None:
    for number, at in enumerate(TRUTH, start=1):
        (folder / IDS[at]).mkdir(parents=True, exist_ok=True)
        (folder / IDS[at] / FILES[number - 1]).write_bytes(jpeg(10 * number))


def flat(folder: Path, jpeg: Jpeg) -> None:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(FILES, start=1):
        (folder / name).write_bytes(jpeg(10 * number))


def register(archive: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have torchvision take the MD5 of ``archive`` for the published one."""
    digest = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(archives.ARCHIVE_META, kind, (archive.name, digest))


@pytest.fixture
def devkit(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The development kit: its classes are numbered otherwise than sorted, and have parents."""
    fields = [("id", "O"), ("wnid", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    order = [IDS[2], IDS[0], IDS[1]]
    rows = [(number, name, f"{name}, word", "", 0) for number, name in enumerate(order, start=1)]
    synsets = np.array([*rows, (4, "n00001740", "entity", "", 3)], dtype=fields)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = "".join(f"{order.index(IDS[at]) + 1}\n" for at in TRUTH)
    path = root / "ILSVRC2012_devkit_t12.tar.gz"
    files = {"meta.mat": meta.getvalue(), "ILSVRC2012_validation_ground_truth.txt": truth.encode()}
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    register(path, "devkit", monkeypatch)
    return path


@pytest.fixture
def images_tar(root: Path, jpeg: Jpeg, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = root / "ILSVRC2012_img_val.tar"
    with tarfile.open(path, "w") as archive:
        for number, name in reversed(list(enumerate(FILES, start=1))):
            content = jpeg(10 * number)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    register(path, "val", monkeypatch)
    return path


@pytest.mark.parametrize("folder", ["val", "."])
def test_class_folders(entry: DatasetEntry, root: Path, jpeg: Jpeg, folder: str) -> None:
    in_classes(root / folder, jpeg)
    (root / folder / "n99999999").mkdir()
    assert entry.num_classes == 1000
    assert prepare(entry) == root / folder
    assert found(entry) == EXPECTED


def test_folder_by_default(
    entry: DatasetEntry, data: Path, jpeg: Jpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_classes(data / "imagenet" / "val", jpeg)
    assert found(entry) == EXPECTED


def test_images_to_train_on(entry: DatasetEntry, root: Path, jpeg: Jpeg) -> None:
    in_classes(root / "val", jpeg)
    with pytest.raises(DatasetError, match=r"to train on .* name another dataset for calibration"):
        entry.load("train")
    in_classes(root / "train", jpeg)
    assert found(entry, "train") == EXPECTED


@pytest.mark.parametrize("folder", ["val", "."])
def test_flat_with_devkit(
    entry: DatasetEntry, root: Path, devkit: Path, jpeg: Jpeg, folder: str
) -> None:
    flat(root / folder, jpeg)
    assert prepare(entry) == root / folder
    assert found(entry) == EXPECTED


@pytest.mark.parametrize(
    ("name", "heading", "line"),
    [
        ("labels.csv", "file,label\n", "{file},{index}\n"),
        ("labels.csv", "file,label\n", "{file},{id}\n"),
        ("val.txt", "", "{file} {index}\n"),
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\n",
            "{stem},{id} 1 2 3 4 {id} 5 6 7 8\n",
        ),
    ],
)
@pytest.mark.parametrize("beside", ["val", "."])
def test_flat_with_a_table(
    entry: DatasetEntry, root: Path, jpeg: Jpeg, name: str, heading: str, line: str, beside: str
) -> None:
    flat(root / "val", jpeg)
    lines = [
        line.format(file=file, stem=file[:-5], id=IDS[at], index=CLASSES[IDS[at]])
        for file, at in zip(FILES, TRUTH, strict=True)
    ]
    (root / beside / name).write_text(heading + "".join(reversed(lines)))
    assert found(entry) == EXPECTED


def test_flat_with_a_table_that_lacks_images(entry: DatasetEntry, root: Path, jpeg: Jpeg) -> None:
    flat(root, jpeg)
    (root / "val.txt").write_text(f"{FILES[0]} 701\n")
    with pytest.raises(DatasetError, match=f"5 of 6 in .* have none, {FILES[1]} for one"):
        entry.load("test")


def test_flat_without_labels(entry: DatasetEntry, root: Path, jpeg: Jpeg) -> None:
    flat(root, jpeg)
    for attempt in (lambda: prepare(entry), lambda: entry.load("test")):
        with pytest.raises(DatasetError, match=r"6 of 6 .*devkit_t12.tar.gz or a whole table"):
            attempt()


@pytest.mark.parametrize("text", ["only_a_name\n", "a.JPEG cat\n", "a.JPEG 1000\n"])
def test_wrong_table(entry: DatasetEntry, root: Path, jpeg: Jpeg, text: str) -> None:
    flat(root, jpeg)
    (root / "val.txt").write_text(text)
    with pytest.raises(DatasetError, match=r"A table of labels has .*val\.txt has not"):
        entry.load("test")


def test_archive_is_unpacked_into_class_folders(
    entry: DatasetEntry, root: Path, devkit: Path, images_tar: Path
) -> None:
    assert prepare(entry) == root / "val"
    assert found(entry) == EXPECTED
    assert sorted(p.name for p in (root / "val").iterdir()) == sorted(IDS)
    images_tar.unlink()
    devkit.unlink()
    assert prepare(entry) == root / "val"


def test_killed_unpacking_is_repeated(
    entry: DatasetEntry,
    root: Path,
    devkit: Path,
    images_tar: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archives.shutil, "move", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(entry)
    with pytest.raises(DatasetError, match="run `qbench data fetch imagenet-val`"):
        entry.load("test")
    prepare(entry)
    assert found(entry) == EXPECTED


@pytest.mark.parametrize("which", ["images", "devkit"])
def test_damaged_archives(
    entry: DatasetEntry, root: Path, devkit: Path, images_tar: Path, which: str
) -> None:
    path = images_tar if which == "images" else devkit
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=rf"MD5 that is published; .*{path.name} has another"):
        prepare(entry)
    assert not (root / "val").exists()


def test_archive_without_devkit(entry: DatasetEntry, root: Path, images_tar: Path) -> None:
    with pytest.raises(DatasetError, match="holds the first but not the second"):
        prepare(entry)


@pytest.mark.parametrize("there", [True, False])
def test_nothing_there_says_what_to_put_where(entry: DatasetEntry, root: Path, there: bool) -> None:
    if not there:
        root.rmdir()
    for attempt in (lambda: prepare(entry), lambda: entry.load("test")):
        with pytest.raises(DatasetError) as error:
            attempt()
        for part in (str(root), "val/n01440764/", "img_val.tar", "devkit_t12", "QBENCH_IMAGENET"):
            assert part in str(error.value)
