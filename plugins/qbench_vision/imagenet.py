"""``imagenet-val``: ImageNet's 50,000 validation images, from a folder that the user fills.

Source: O. Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015; an
account is needed to download it, and its use is limited to research and teaching.
"""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qbench_suite import DatasetError
from qbench_vision.folders import Folder
from qbench_vision.images import open_image, read_image
from qbench_vision.layouts import TABLE, Listing, list_classes
from qbench_vision.storage import CONSOLE, data_folder, preparing

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

T = TypeVar("T")

NAME = "imagenet-val"
#: The archives, as the site of the challenge calls them.
IMAGES_TAR = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
#: What the images of a flat folder are called.
FLAT = "ILSVRC2012_val_*.JPEG"
#: What class folders are called, after the WordNet ids of their classes.
CLASS_FOLDER = "n" + "[0-9]" * 8
#: Tables of labels: file and index; separated by a space instead; Kaggle's, with WordNet ids.
TABLES = (TABLE, "val.txt", "LOC_val_solution.csv")


def root() -> Path:
    """Return the folder that the user fills: ``$QBENCH_IMAGENET``, or ``imagenet`` of the data folder."""
    named = os.environ.get("QBENCH_IMAGENET")
    return Path(named).expanduser() if named else data_folder() / "imagenet"


def location() -> Path:
    """Return the folder of the validation images: ``val`` of the root, or the root itself."""
    return next(filter(_holds_images, (root() / "val", root())), root() / "val")


def prepare() -> Path:
    """Unpack the archive where there are no images yet, check the labels, return the images' folder.

    Raises:
        DatasetError: there is nothing to prepare, an archive is damaged, or labels are missing.
    """
    if not _holds_images(location()):
        if not (root() / IMAGES_TAR).is_file():
            raise _nothing_there()
        with preparing(NAME, root()):
            if not _holds_images(location()):
                _unpack()
    load_images("test")
    return location()


def load(split: str) -> Folder[Tensor]:
    """Return a split as tensors, (3, side, side) in 0…1; ``train`` where class folders are in ``train``.

    Raises:
        DatasetError: there are no images, or no labels for them.
    """
    return _load(split, read_image)


def load_images(split: str) -> Folder[Image]:
    """Return a split as PIL images; raises ``DatasetError`` as ``load`` does."""
    return _load(split, open_image)


def _load(split: str, read: Callable[[Path], T]) -> Folder[T]:
    folder = location() if split == "test" else root() / "train"
    if split == "test" and not _holds_images(folder):
        raise _nothing_there()
    classes = list_classes(folder, _class_labels(folder))
    if classes.paths:
        return Folder(classes, read)
    if split == "test":
        return Folder(_flat(folder), read)
    raise DatasetError(
        f"{NAME} has images to train on where they lie in class folders of {folder}; they do not. Put "
        "them there, or name another dataset for calibration in the policy."
    )


def _holds_images(folder: Path) -> bool:
    return _first(folder, CLASS_FOLDER) is not None or _first(folder, FLAT) is not None


def _first(folder: Path, pattern: str) -> Path | None:
    return next(iter(folder.glob(pattern)), None) if folder.is_dir() else None


def _nothing_there() -> DatasetError:
    return DatasetError(
        f"{NAME} cannot be downloaded without an account; it is read from {root()}, where no images "
        f"are. Put one of these there: class folders val/n01440764/…; or {FLAT}, with {DEVKIT} or "
        f"a table of labels ({', '.join(TABLES)}); or {IMAGES_TAR} and {DEVKIT} from "
        "https://image-net.org/download-images, and run `qbench data fetch imagenet-val`. Or set "
        "QBENCH_IMAGENET to the folder that has them."
    )


@cache
def _indices() -> Mapping[str, int]:
    """WordNet id of each of the thousand classes → its index."""
    from timm.data.imagenet_info import ImageNetInfo

    info: Any = ImageNetInfo("imagenet-1k")
    return {wordnet_id: index for index, wordnet_id in enumerate(info.label_names())}


def _class_labels(folder: Path) -> dict[str, int]:
    """Indices of the class folders that are there."""
    return {
        wordnet_id: index
        for wordnet_id, index in _indices().items()
        if (folder / wordnet_id).is_dir()
    }


def _flat(folder: Path) -> Listing:
    paths = tuple(sorted(folder.glob(FLAT)))
    if not paths:
        raise _nothing_there()
    labels = _flat_labels(folder)
    unlabelled = [path.name for path in paths if path.stem not in labels]
    if unlabelled:
        raise DatasetError(
            f"Each image of {NAME} has a label; {len(unlabelled)} of {len(paths)} in {folder} have "
            f"none, {unlabelled[0]} for one. Put {DEVKIT} or a whole table of labels "
            f"({', '.join(TABLES)}) into {root()}."
        )
    return Listing(paths, tuple(labels[path.stem] for path in paths))


def _flat_labels(folder: Path) -> dict[str, int]:
    """Label by file name without suffix, of the first source that is there; empty without one."""
    for place in dict.fromkeys((folder, root())):
        for table in (place / name for name in TABLES):
            if table.is_file():
                return _read_table(table)
        if (place / DEVKIT).is_file():
            ids = _devkit_classes(place)
            return {
                f"ILSVRC2012_val_{number:08}": _indices()[wordnet_id]
                for number, wordnet_id in enumerate(ids, start=1)
            }
    return {}


def _read_table(table: Path) -> dict[str, int]:
    try:
        with table.open(newline="", encoding="utf-8") as file:
            return {Path(name).stem: _index(label) for name, label in _rows(file, table.suffix)}
    except (KeyError, ValueError, IndexError) as error:
        raise DatasetError(
            f"A table of labels has a file name and the index or WordNet id of a class in each line; "
            f"{table} has not ({type(error).__name__}: {error}). Mend it, or put {DEVKIT} there."
        ) from error


def _rows(file: Iterator[str], suffix: str) -> Iterator[tuple[str, str]]:
    rows = csv.reader(file) if suffix == ".csv" else (line.split() for line in file)
    for number, row in enumerate(filter(None, rows)):
        if suffix == ".csv" and number == 0:
            continue  # the heading
        # Kaggle lists boxes behind the WordNet id.
        yield row[0], row[1].split()[0]


def _index(label: str) -> int:
    index = int(label) if label.isdigit() else _indices()[label]
    if index >= len(_indices()):
        raise ValueError(f"index {index} of {len(_indices())} classes")
    return index


def _devkit_classes(folder: Path) -> list[str]:
    """WordNet id of each validation image, in the order of their numbers."""
    from torchvision.datasets.imagenet import load_meta_file, parse_devkit_archive

    # The folder may be one that cannot be written; what torchvision makes of it goes elsewhere.
    with tempfile.TemporaryDirectory() as scratch:
        try:
            parse_devkit_archive(scratch, file=str((folder / DEVKIT).resolve()))
            classes: list[str] = load_meta_file(scratch)[1]
        except RuntimeError as error:
            raise _damaged(folder / DEVKIT) from error
    return classes


def _unpack() -> None:
    """Unpack the images into ``val``, a folder a class; it gets that name when it is whole."""
    from torchvision.datasets.imagenet import parse_val_archive

    if not (root() / DEVKIT).is_file():
        raise DatasetError(
            f"The labels of {IMAGES_TAR} come from {DEVKIT}; {root()} holds the first but not the "
            "second. Put it there, too."
        )
    scratch = root() / ".val.unpacking"
    if scratch.exists():
        shutil.rmtree(scratch)
    CONSOLE.print(f"unpacking {root() / IMAGES_TAR}")
    classes = _devkit_classes(root())
    try:
        parse_val_archive(root(), wnids=classes, folder=scratch.name)
    except RuntimeError as error:
        raise _damaged(root() / IMAGES_TAR) from error
    scratch.replace(root() / "val")


def _damaged(archive: Path) -> DatasetError:
    return DatasetError(
        f"An archive of ImageNet has the MD5 that is published; {archive} has another. Copy or "
        "download it again."
    )
