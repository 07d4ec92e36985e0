"""``cifar10`` and ``cifar100``: the real datasets, as torchvision loads them.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.transforms import ToTensor

from qbench_vision.fetch import Archive, fetch
from qbench_vision.storage import absent, data_folder, preparing

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from torch.utils.data import Dataset

#: Name of the dataset → torchvision's class of it.
CLASSES: dict[str, Any] = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def location(name: str) -> Path:
    """Return the folder of ``name`` once it is prepared."""
    return data_folder() / str(CLASSES[name].base_folder)


def prepare(name: str) -> Path:
    """Download and unpack ``name``; what is there already and whole is left as it is.

    Raises:
        DatasetError: it cannot be downloaded, verified or written.
    """
    cifar = CLASSES[name]
    with preparing(name) as root:
        try:
            cifar(root)
        except RuntimeError:  # what torchvision raises for missing files and for wrong checksums
            fetch(Archive(cifar.url, cifar.tgz_md5), root)
            cifar(root, download=True)
    return location(name)


def load(name: str, split: str) -> Dataset[tuple[Tensor, int]]:
    """Return a split as tensors, (3, 32, 32) in 0…1; the files' checksums are verified each time.

    Raises:
        DatasetError: it is absent or damaged.
    """
    dataset: Dataset[tuple[Tensor, int]] = _load(name, split, ToTensor())
    return dataset


def load_images(name: str, split: str) -> Dataset[tuple[Image, int]]:
    """Return a split as PIL images; raises ``DatasetError`` as ``load`` does."""
    dataset: Dataset[tuple[Image, int]] = _load(name, split, None)
    return dataset


def _load(name: str, split: str, transform: Callable[[Image], Tensor] | None) -> Any:
    try:
        return CLASSES[name](data_folder(), train=split == "train", transform=transform)
    except (OSError, RuntimeError) as error:
        raise absent(name, location(name)) from error
