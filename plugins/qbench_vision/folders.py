"""``folder:<path>``: the images of a folder as a dataset."""

from __future__ import annotations

import re
import warnings
from functools import partial
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from qbench_suite import DatasetEntry, DatasetError
from qbench_vision.images import UNREADABLE, read_image
from qbench_vision.layouts import Listing, class_names, has_table, list_images

#: How many unreadable images a folder may hold.
LIMIT = 10


class Folder(Dataset[tuple[Tensor, int]]):
    """Images read when asked for: ``(image, label)`` with image (3, side, side) in 0…1.

    For an unreadable image the next readable one stands in, with its own label, so that an index
    means the same whatever was read before; a warning names the file.

    Raises:
        DatasetError: on reading, where more than ``LIMIT`` images are unreadable, or all.
    """

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._unreadable: dict[Path, str] = {}

    def __len__(self) -> int:
        return len(self._listing.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        for step in range(len(self)):
            at = (index + step) % len(self)
            image = self._read(self._listing.paths[at])
            if image is not None:
                return image, self._listing.labels[at]
        raise self._too_many()

    def _read(self, path: Path) -> Tensor | None:
        if path in self._unreadable:
            return None
        try:
            return read_image(path)
        except UNREADABLE as error:
            self._unreadable[path] = f"{path} ({type(error).__name__}: {error})"
            if len(self._unreadable) > LIMIT:
                raise self._too_many() from error
            warnings.warn(
                f"skipped an unreadable image: {self._unreadable[path]}",
                RuntimeWarning,
                stacklevel=3,
            )
            return None

    def _too_many(self) -> DatasetError:
        return DatasetError(
            f"At most {LIMIT} images of a folder are unreadable, and not all; of {len(self)}, these "
            f"are: {'; '.join(self._unreadable.values())}. Replace or delete them."
        )


def entry(match: re.Match[str]) -> DatasetEntry:
    """Return the entry of a name; its group ``path`` is a folder laid out as ``list_images`` says.

    Raises:
        DatasetError: there is no such folder, or its table of labels is wrong.
    """
    root = Path(match["path"]).expanduser()
    return DatasetEntry(
        name=match[0],
        load=partial(_load, root),
        num_classes=_num_classes(root),
        description=f"the images of {root}",
    )


def _load(root: Path, split: str) -> Folder:
    return Folder(list_images(root, split))


def _num_classes(root: Path) -> int:
    if has_table(root):
        return max(list_images(root, "test").labels) + 1
    return len(class_names(root))
