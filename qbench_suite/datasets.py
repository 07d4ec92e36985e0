"""What a dataset plugin registers: how to load a split of it, and how to get it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor
    from torch.utils.data import Dataset


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """Labelled images.

    ``load(split)`` with ``split`` of ``"train"`` or ``"test"`` returns a map-style torch dataset of
    ``(image, label)``: image (channels, height, width) float32 with pixels in 0…1, label an int. An
    image that cannot be read raises ``BrokenImageError``; whoever iterates counts it and goes on.
    """

    #: Name on the command line, made of ``[A-Za-z0-9_.+:/-]``; case ids do not hold it.
    name: str
    #: Loads one split.
    load: Callable[[str], Dataset[tuple[Tensor, int]]]
    #: Number of classes; 0 where the labels mean nothing.
    num_classes: int
    #: Loads one split as PIL images, in the order of ``load``, for models that bring a transform of
    #: their own; None where the images are tensors to begin with.
    load_images: Callable[[str], Dataset[tuple[Image, int]]] | None = None
    #: Whether labels count the classes of a larger set, of which only some occur: those of ten
    #: classes of ImageNet, for instance, for models of its thousand.
    sparse_labels: bool = False
    #: Gets what is missing (downloads, unpacks, checks) and returns where it lies; None for a
    #: dataset that is there from the start. ``qbench data fetch NAME`` calls it.
    prepare: Callable[[], Path] | None = None
    #: Where it lies, or will once it is prepared; None where it has no folder or file of its own.
    location: Callable[[], Path] | None = None
    #: One line for ``qbench list datasets``.
    description: str = ""
