"""Image files as a dataset; ``folder:<path>``: those of a folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from torch.utils.data import Dataset

from qbench_suite import DatasetEntry
from qbench_vision.images import open_image, read_image
from qbench_vision.layouts import Listing, class_names, has_table, list_images

T = TypeVar("T")


class Folder(Dataset[tuple[T, int]], Generic[T]):
    """Images of a listing, read when asked for: ``(image, label)``, the image as ``read`` gives it.

    Raises:
        BrokenImageError: on reading an image that is not whole.
    """

    def __init__(self, listing: Listing, read: Callable[[Path], T]) -> None:
        self._listing = listing
        self._read = read

    def __len__(self) -> int:
        return len(self._listing.paths)

    def __getitem__(self, index: int) -> tuple[T, int]:
        path, label = self._listing.paths[index], self._listing.labels[index]
        return self._read(path), label


def entry(match: re.Match[str]) -> DatasetEntry:
    """Return the entry of a name; its group ``path`` is a folder laid out as ``list_images`` says.

    Raises:
        DatasetError: there is no such folder, or its table of labels is wrong.
    """
    root = Path(match["path"]).expanduser()
    listed = partial(list_images, root)
    return DatasetEntry(
        name=match[0],
        load=lambda split: Folder(listed(split), read_image),
        load_images=lambda split: Folder(listed(split), open_image),
        num_classes=_num_classes(root),
        sparse_labels=has_table(root),
        location=lambda: root,
        description=f"the images of {root}",
    )


def _num_classes(root: Path) -> int:
    if has_table(root):
        return max(list_images(root, "test").labels) + 1
    return len(class_names(root))
