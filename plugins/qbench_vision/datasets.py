"""The datasets of this plugin as entries; each module is imported when its dataset is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

from qbench_suite import DatasetEntry, Family

_SPLIT = "32x32 colour photographs, 50,000 to train and 10,000 to test"


def entries() -> Iterator[DatasetEntry | Family[DatasetEntry]]:
    """Yield every entry and family."""
    yield _entry("cifar10", "cifar", "cifar10", classes=10, description=f"CIFAR-10: {_SPLIT}")
    yield _entry("cifar100", "cifar", "cifar100", classes=100, description=f"CIFAR-100: {_SPLIT}")
    for name, size in (
        ("imagenette", "full size"),
        ("imagenette-320", "shorter side 320"),
        ("imagenette-160", "shorter side 160"),
    ):
        description = f"ten classes of ImageNet, {size}: 9,469 to train and 3,925 to test"
        yield _entry(name, "imagenette", name, classes=1000, sparse=True, description=description)
    description = "200 classes of ImageNet at 64x64: 100,000 to train and 10,000 to test"
    yield _entry("tiny-imagenet", "tiny_imagenet", classes=200, description=description)
    description = "ImageNet's 50,000 validation images, in a folder that you fill"
    yield _entry("imagenet-val", "imagenet", classes=1000, description=description)
    yield Family("folder:<path>", r"folder:(?P<path>.+)", _later("folders", "entry"))
    yield Family("npz:<path>", r"npz:(?P<path>.+)", _later("arrays", "entry"))


def _entry(
    name: str,
    module: str,
    *arguments: str,
    classes: int,
    description: str,
    sparse: bool = False,
) -> DatasetEntry:
    """An entry whose functions are those of ``module``, which take ``arguments`` first."""
    return DatasetEntry(
        name=name,
        load=_later(module, "load", *arguments),
        load_images=_later(module, "load_images", *arguments),
        num_classes=classes,
        sparse_labels=sparse,
        prepare=_later(module, "prepare", *arguments),
        location=_later(module, "location", *arguments),
        description=description,
    )


def _later(module: str, function: str, *first: object) -> Callable[..., Any]:
    """``function`` of ``module`` with ``first`` put before its arguments, imported when called."""

    def call(*rest: object) -> Any:
        home = importlib.import_module(f"qbench_vision.{module}")
        return getattr(home, function)(*first, *rest)

    return call
