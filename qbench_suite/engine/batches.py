"""Batches: the images that a model is evaluated or calibrated on, in an order that never changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import Generic, TypeVar

import torch
from torch import Tensor

from qbench_suite.datasets import DatasetEntry
from qbench_suite.engine.fingerprint import content
from qbench_suite.engine.inputs import RANDOM, ModelInputs
from qbench_suite.errors import BrokenImageError, DatasetError
from qbench_suite.manager import Manager
from qbench_suite.models import ModelEntry

T = TypeVar("T")
#: Inputs of ``random`` where no number is asked for: it has no end of its own.
_RANDOM_IMAGES = 256


@dataclass(frozen=True)
class Batch:
    """Some images, by their places in the source."""

    #: Place after its last image: where the next batch begins.
    end: int
    #: (images, *input_size) float32 on the CPU; images that cannot be read are not among them.
    images: Tensor
    #: (images,) int64; None where labels mean nothing.
    labels: Tensor | None
    #: Which images cannot be read, and why.
    skipped: tuple[str, ...] = ()


class ImageSource:
    """Images of a split, all of them or a subset drawn by seed, as batches of model inputs.

    A subset of n takes one image of each of n equal stretches of the split, so that a split sorted by
    class gives each its share. Inputs made once are kept up to ``cache_bytes``, in order, for later
    passes. Raises ``DatasetError`` where the split is empty.
    """

    def __init__(
        self,
        manager: Manager,
        entry: ModelEntry,
        dataset: str,
        *,
        split: str = "test",
        images: int | None = None,
        seed: int = 0,
        cache_bytes: int = 0,
    ) -> None:
        self.inputs = ModelInputs(manager, entry, dataset, split, seed)
        self.labelled = dataset != RANDOM and manager.datasets.get(dataset).num_classes > 0
        self.indices = subset(len(self.inputs), _wanted(dataset, images), seed)
        if not self.indices:
            raise DatasetError(
                f"A split that is used holds images; {split!r} of {dataset!r} is empty. Choose "
                "another dataset."
            )
        self._bytes_left = cache_bytes
        self._kept: dict[int, tuple[Tensor, int]] = {}
        #: By index: a digest of the input and its label as they were last made.
        self._digests: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, size: int, start: int = 0, *, ahead: bool = True) -> Iterator[Batch]:
        """Batches of ``size`` places from ``start`` on; the last may be smaller, any may be empty.

        ``ahead``: a thread makes each batch while the one before it is in use; off while anything is
        timed, as decoding would take processors from it.
        """
        made = (self.batch(first, size) for first in range(start, len(self), size))
        return _ahead(made) if ahead else made

    def batch(self, first: int, size: int) -> Batch:
        """The images at ``size`` places from ``first`` on."""
        found: list[tuple[Tensor, int]] = []
        skipped = []
        places = range(first, min(first + size, len(self)))
        for place in places:
            try:
                found.append(self._read(self.indices[place]))
            except BrokenImageError as error:
                skipped.append(str(error))
        shape = (0, *self.inputs.entry.input_size)
        images = torch.stack([image for image, _ in found]) if found else torch.zeros(shape)
        labels = torch.tensor([label for _, label in found], dtype=torch.int64)
        return Batch(places.stop, images, labels if self.labelled else None, tuple(skipped))

    def sample(self, images: int) -> Tensor:
        """At most ``images`` of the first images that can be read; ``DatasetError`` where none can."""
        for batch in self.batches(images, ahead=False):
            if len(batch.images):
                return batch.images
        raise DatasetError(
            f"A split that is used holds images that can be read; {self.inputs.split!r} of "
            f"{self.inputs.dataset!r} holds none. Mend the dataset, or choose another one."
        )

    def content(self, places: int) -> str:
        """A digest of the first ``places`` inputs and labels; those not made yet are made for it.

        It is a sum of digests, one an image, so that it does not depend on batches.
        """
        for index in self.indices[:places]:
            if index not in self._digests:
                with suppress(BrokenImageError):
                    self._read(index)
        return f"{sum(self._digests[index] for index in self.indices[:places]):x}"

    def _read(self, index: int) -> tuple[Tensor, int]:
        if index in self._kept:
            return self._kept[index]
        self._digests[index] = 0  # of an image that cannot be read
        image, label = self.inputs.read(index)
        known = hashlib.sha1(f"{index} {label}".encode(), usedforsecurity=False)
        known.update(content(image))
        self._digests[index] = int(known.hexdigest(), 16)
        size = image.numel() * image.element_size()
        # Whatever goes in first stays: passes go round, and the oldest is what comes next.
        if size <= self._bytes_left:
            self._bytes_left -= size
            self._kept[index] = (image, label)
        return image, label


def subset(count: int, images: int | None, seed: int) -> list[int]:
    """Which of ``count`` images are used: all, or one of each of ``images`` equal stretches."""
    if images is None or images >= count:
        return list(range(count))
    draws = torch.rand(images, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    bounds = [place * count // images for place in range(images + 1)]
    return [
        low + int(draw * (high - low))
        for low, high, draw in zip(bounds, bounds[1:], draws.tolist(), strict=False)
    ]


def require_classes(entry: ModelEntry, dataset: DatasetEntry) -> None:
    """Raise ``DatasetError`` where the classes of the model and of the dataset are not the same."""
    fits = (
        dataset.num_classes <= entry.num_classes
        if dataset.sparse_labels
        else (dataset.num_classes in (0, entry.num_classes))
    )
    if not fits:
        raise DatasetError(
            f"A model is evaluated on the classes it tells apart; {entry.name!r} has "
            f"{entry.num_classes} classes, {dataset.name!r} has {dataset.num_classes}. Choose another "
            "dataset with --qbench-data, or --qbench-data random to do without accuracy."
        )


def require_labels(labels: Tensor, classes: int, dataset: str) -> None:
    """Raise ``DatasetError`` for a label that is none of ``classes`` classes."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if not len(wrong):
        return
    label = int(wrong[0])
    what = "an image without a label (-1)" if label == -1 else f"the label {label}"
    raise DatasetError(
        f"Accuracy needs labels from 0 to {classes - 1}, the classes of the model; {dataset!r} holds "
        f"{what}. Label its images, or choose another dataset with --qbench-data."
    )


def _wanted(dataset: str, images: int | None) -> int | None:
    return _RANDOM_IMAGES if dataset == RANDOM and images is None else images


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """``items``, each made by a thread while the one before it is in use."""
    coming = _Later(lambda: next(items, None))
    while (item := coming.result()) is not None:
        coming = _Later(lambda: next(items, None))
        yield item


class _Later(Generic[T]):
    """What a function gives, made by a thread that nobody waits for when the process ends."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._found: list[T] = []
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, name="qbench-images", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found.append(self._function())
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        """What the function gave; raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found[0]
