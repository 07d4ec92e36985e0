"""``npz:<path>``: images and labels in one NumPy archive."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from qbench_suite import DatasetEntry, DatasetError

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Labels = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class Arrays(Dataset[tuple[Tensor, int]]):
    """Images as tensors, (channels, height, width) in 0…1, with their labels."""

    #: uint8 (count, height, width, channels).
    pixels: Pixels
    #: (count,).
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.tensor(self.pixels[index]).permute(2, 0, 1).contiguous()
        return image.to(torch.float32) / 255, int(self.labels[index])


class ArrayImages(Dataset[tuple[Image.Image, int]]):
    """The same as RGB images."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        pixels = self._arrays.pixels[index]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return image.convert("RGB"), int(self._arrays.labels[index])


def read_arrays(path: Path) -> Arrays:
    """Return the images of an archive: ``x`` uint8 (N, C, H, W) or (N, H, W, C), ``y`` integer (N,).

    C is 1 or 3; where both ends of an image could be its channels, they come first.

    Raises:
        DatasetError: there is no such file, it is no archive, or its arrays are others.
    """
    if not path.is_file():
        raise DatasetError(
            f"An npz dataset is a file; {str(path)!r} does not exist. Check the path."
        )
    try:
        with np.load(path) as archive:
            x, y = archive["x"], archive["y"]
    except (KeyError, OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise _wrong(path, f"{type(error).__name__}: {error}") from error
    shapes = f"x is {x.dtype} {x.shape}, y is {y.dtype} {y.shape}"
    if x.dtype != np.uint8 or x.ndim != 4 or y.shape != (len(x),) or y.dtype.kind not in "iu":
        raise _wrong(path, shapes)
    if x.shape[1] in (1, 3):
        x = x.transpose(0, 2, 3, 1)
    if x.shape[3] not in (1, 3) or not x.size or y.min() < 0:
        raise _wrong(path, shapes if x.size and x.shape[3] not in (1, 3) else "empty, or y below 0")
    return Arrays(x, y.astype(np.int64))


def entry(match: re.Match[str]) -> DatasetEntry:
    """Return the entry of a name; its group ``path`` is the archive, both splits of which it is.

    Classes are counted up to the greatest label. Where some below it do not occur, the labels are
    those of a larger set.

    Raises:
        DatasetError: as in ``read_arrays``.
    """
    path = Path(match["path"]).expanduser()
    occurring = np.unique(read_arrays(path).labels)
    return DatasetEntry(
        name=match[0],
        load=lambda _split: read_arrays(path),
        load_images=lambda _split: ArrayImages(read_arrays(path)),
        num_classes=int(occurring[-1]) + 1,
        sparse_labels=len(occurring) <= occurring[-1],
        location=lambda: path,
        description=f"the images of {path.name}",
    )


def _wrong(path: Path, what: str) -> DatasetError:
    return DatasetError(
        f"An npz dataset holds x, uint8 of shape (N, C, H, W) or (N, H, W, C) with 1 or 3 channels, "
        f"and y, integers of shape (N,) from 0 up; {path} does not ({what}). Save it with "
        "numpy.savez(path, x=…, y=…)."
    )
