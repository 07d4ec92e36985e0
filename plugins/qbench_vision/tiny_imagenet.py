"""``tiny-imagenet``: 200 classes of ImageNet as 64x64 photographs, with labels of its own.

Source: Stanford CS231n, http://cs231n.stanford.edu/tiny-imagenet-200.zip; research use only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from qbench_suite import DatasetError
from qbench_vision.fetch import Archive, fetch
from qbench_vision.folders import Folder
from qbench_vision.images import open_image, read_image
from qbench_vision.layouts import list_images
from qbench_vision.storage import CONSOLE, absent, data_folder, preparing, unpack

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

T = TypeVar("T")

NAME = "tiny-imagenet"
ARCHIVE = Archive(
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
)


def location() -> Path:
    """Return the folder of the dataset once it is prepared."""
    return data_folder() / "tiny-imagenet-200"


def prepare() -> Path:
    """Download and unpack it, and give its validation images a folder a class.

    A folder that was unpacked by hand is re-laid where it is. What is prepared already is left.

    Raises:
        DatasetError: it cannot be downloaded, verified or written.
    """
    with preparing(NAME) as root:
        if location().is_dir():
            lay_out_validation(location())
            return location()
        return unpack(fetch(ARCHIVE, root), location().name, lay_out_validation)


def lay_out_validation(folder: Path) -> None:
    """Move ``val/images/<file>`` to ``val/<class>/<file>`` as ``val/val_annotations.txt`` says.

    The folder ``images`` goes last: until then the dataset is not whole, and moving can go on.

    Raises:
        DatasetError: the table is missing or wrong, or images are left that it does not name.
        OSError: the folder cannot be written.
    """
    validation = folder / "val"
    images = validation / "images"
    if not images.is_dir():
        return
    CONSOLE.print(f"laying out {validation}")
    for file, wordnet_id in _annotations(validation / "val_annotations.txt"):
        (validation / wordnet_id).mkdir(exist_ok=True)
        if (images / file).exists():
            (images / file).replace(validation / wordnet_id / file)
    left = len(list(images.iterdir()))
    if left:
        raise _misshapen(folder, f"it leaves {left} images in {images}")
    images.rmdir()


def _annotations(table: Path) -> list[tuple[str, str]]:
    try:
        rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()]
        return [(row[0], row[1]) for row in rows]
    except (FileNotFoundError, UnicodeDecodeError, IndexError) as error:
        raise _misshapen(table.parent.parent, f"{type(error).__name__}: {error}") from error


def _misshapen(folder: Path, what: str) -> DatasetError:
    return DatasetError(
        f"val/val_annotations.txt of {NAME} names each image and its class; that of {folder} does "
        f"not ({what}). Delete {folder} and run `qbench data fetch {NAME}`."
    )


def load(split: str) -> Folder[Tensor]:
    """Return a split as tensors, (3, 64, 64) in 0…1; raises ``DatasetError`` if it is absent."""
    return _load(split, read_image)


def load_images(split: str) -> Folder[Image]:
    """Return a split as PIL images; raises ``DatasetError`` if it is absent."""
    return _load(split, open_image)


def _load(split: str, read: Callable[[Path], T]) -> Folder[T]:
    if not (location() / "val").is_dir() or (location() / "val" / "images").is_dir():
        raise absent(NAME, location())
    return Folder(list_images(location(), split), read)
