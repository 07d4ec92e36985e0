"""``cifar10``: the real dataset, as torchvision loads it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from torchvision.datasets import CIFAR10
from torchvision.transforms import ToTensor

from qbench_suite import DatasetError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset


def data_folder() -> Path:
    """Return the folder of downloaded datasets: ``$QBENCH_DATA``, or ``~/.cache/qbench/data``."""
    return Path(os.environ.get("QBENCH_DATA") or "~/.cache/qbench/data").expanduser()


def load(split: str) -> Dataset[tuple[Tensor, int]]:
    """Return a split of CIFAR-10, downloaded where it is absent; images are (3, 32, 32) in 0…1.

    The files' checksums are verified each time.

    Raises:
        DatasetError: it is absent or damaged, and cannot be downloaded.
    """
    root = data_folder()
    try:
        dataset: Dataset[tuple[Tensor, int]] = CIFAR10(
            root, train=split == "train", transform=ToTensor(), download=True
        )
    except (OSError, RuntimeError) as error:
        raise DatasetError(
            f"cifar10 lies whole in {root / CIFAR10.base_folder}, or is downloaded there; it does not, "
            f"and the download failed ({type(error).__name__}: {error}). Unpack {CIFAR10.url} in "
            f"{root}, or set QBENCH_DATA to the folder that holds {CIFAR10.base_folder}."
        ) from error
    return dataset
