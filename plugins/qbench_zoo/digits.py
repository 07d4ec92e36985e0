"""The ``digits`` dataset: scikit-learn's 1,797 handwritten digits, 500 of them held out.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49, as shipped by ``sklearn.datasets.load_digits``.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from qbench_suite import DatasetError
from qbench_zoo.architectures import INPUT_SIZE

#: Names of the splits.
SPLITS = ("test", "train")
#: Number of digits in ``test``.
HELD_OUT = 500
#: Seed of the split; changing it makes every published accuracy meaningless.
SPLIT_SEED = 20240229


@dataclass(frozen=True, eq=False)
class Digits(Dataset[tuple[Tensor, int]]):
    """One split as a map-style dataset of ``(image, label)``, and as whole tensors."""

    #: float32 (count, 1, 32, 32), pixels in 0…1, 1 being ink.
    images: Tensor
    #: int64 (count,), 0…9.
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of digits."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return the image, float32 (1, 32, 32) with pixels in 0…1, and its label."""
        return self.images[index], int(self.labels[index])


def load(split: str) -> Digits:
    """Return a split, ``"train"`` (1,297 digits) or ``"test"`` (500); the same object every time.

    Raises:
        DatasetError: ``split`` is neither.
    """
    if split not in SPLITS:
        near = difflib.get_close_matches(split, SPLITS, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}?" if near else "use one of these"
        raise DatasetError(
            f"a split of digits must be one of {', '.join(SPLITS)}; got {split!r}; {hint}"
        )
    return _splits()[split]


@cache
def _splits() -> dict[str, Digits]:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]

    source = load_digits()
    images = upsample(torch.from_numpy(source.images))
    labels = torch.from_numpy(source.target).to(torch.int64)
    held_out = held_out_indices(source.target)
    rest = np.setdiff1d(np.arange(len(labels)), held_out)
    return {
        "test": Digits(images[held_out], labels[held_out]),
        "train": Digits(images[rest], labels[rest]),
    }


def upsample(images: Tensor) -> Tensor:
    """Turn (count, 8, 8) of ink in 0…16 into float32 (count, 1, 32, 32) in 0…1, bilinearly.

    Ink is a multiple of 1/16 and the weights of a fourfold upsampling are multiples of 1/64, so
    every product and sum is exact in float32: the pixels are the same bits on every machine.
    """
    pixels = images.to(torch.float32).unsqueeze(1) / 16
    return functional.interpolate(pixels, size=INPUT_SIZE[1:], mode="bilinear", align_corners=False)


def held_out_indices(labels: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[int]:
    """Return the sorted indices of the 500 digits of ``test``: each class has its fair share ±1.

    Digits are shuffled, grouped by class, and every 1797/500-th is taken. The generator is
    ``RandomState`` because numpy promises that its stream never changes.
    """
    shuffled = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    picks = (2 * np.arange(HELD_OUT) + 1) * len(labels) // (2 * HELD_OUT)
    return sorted(by_class[picks].tolist())
