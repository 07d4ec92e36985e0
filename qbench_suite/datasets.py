"""What a dataset plugin registers: how to load a split of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """Labelled images.

    ``load(split)`` with ``split`` of ``"train"`` or ``"test"`` returns a map-style torch dataset of
    ``(image, label)``: image (channels, height, width) float32 with pixels in 0…1, label an int.
    """

    #: Name on the command line, made of ``[A-Za-z0-9_.+:/]``.
    name: str
    #: Loads one split.
    load: Callable[[str], Dataset[tuple[Tensor, int]]]
    #: Number of classes; 0 where the labels mean nothing.
    num_classes: int
    #: One line for ``qbench list datasets``.
    description: str = ""
