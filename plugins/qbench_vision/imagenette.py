"""``imagenette``: ten classes of ImageNet, labelled as ImageNet labels them.

Source: J. Howard, https://github.com/fastai/imagenette, Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from qbench_suite import DatasetError
from qbench_vision.fetch import Archive, fetch
from qbench_vision.folders import Folder
from qbench_vision.images import open_image, read_image
from qbench_vision.layouts import list_classes
from qbench_vision.storage import absent, data_folder, preparing, unpack

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

T = TypeVar("T")

#: Name of the dataset → its archive: the shorter side is as photographed, 320 or 160 pixels.
ARCHIVES = {
    name: Archive(f"https://s3.amazonaws.com/fast-ai-imageclas/{file}.tgz", md5)
    for name, file, md5 in (
        ("imagenette", "imagenette2", "fe2fc210e6bb7c5664d602c3cd71e612"),
        ("imagenette-320", "imagenette2-320", "3df6f0d01a2c9592104656642f5e78a3"),
        ("imagenette-160", "imagenette2-160", "e793b78cc4c9e9a4ccc0c1155377a412"),
    )
}
#: WordNet id of a class → its index among the thousand of ImageNet, which are sorted by that id.
LABELS = {
    "n01440764": 0,  # tench
    "n02102040": 217,  # English springer
    "n02979186": 482,  # cassette player
    "n03000684": 491,  # chain saw
    "n03028079": 497,  # church
    "n03394916": 566,  # French horn
    "n03417042": 569,  # garbage truck
    "n03425413": 571,  # gas pump
    "n03445777": 574,  # golf ball
    "n03888257": 701,  # parachute
}


def location(name: str) -> Path:
    """Return the folder of ``name`` once it is prepared."""
    return data_folder() / ARCHIVES[name].name.removesuffix(".tgz")


def prepare(name: str) -> Path:
    """Download and unpack ``name``; what is there already is left as it is.

    Raises:
        DatasetError: it cannot be downloaded, verified or written.
    """
    with preparing(name) as root:
        if location(name).is_dir():
            return location(name)
        # torchvision would take a folder for whole that a killed process has half unpacked.
        return unpack(fetch(ARCHIVES[name], root), location(name).name)


def load(name: str, split: str) -> Folder[Tensor]:
    """Return a split as tensors, (3, side, side) in 0…1; raises ``DatasetError`` if it is absent."""
    return _load(name, split, read_image)


def load_images(name: str, split: str) -> Folder[Image]:
    """Return a split as PIL images; raises ``DatasetError`` if it is absent."""
    return _load(name, split, open_image)


def _load(name: str, split: str, read: Callable[[Path], T]) -> Folder[T]:
    folder = location(name) / ("train" if split == "train" else "val")
    if not folder.is_dir():
        raise absent(name, location(name))
    listing = list_classes(folder, LABELS)
    if not listing.paths:
        raise DatasetError(
            f"{name} holds images in a folder a class; {folder} holds none. Delete {location(name)} and "
            f"run `qbench data fetch {name}`."
        )
    return Folder(listing, read)
