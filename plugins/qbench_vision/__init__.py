"""Vision models and image datasets from elsewhere: timm, torchvision, checkpoint files, folders.

Models:
    timm:<model>              a timm architecture, random weights that are the same every time
    timm:<model>+pretrained   the same with published weights; <model> may carry timm's tag
    timm:<model>@<file>       the same with the weights of a checkpoint, loaded strictly
    torchvision:<model>…      likewise, the classification models of torchvision
    <folder>/<model>.pth      a checkpoint named after its timm architecture

Datasets:
    cifar10                   CIFAR-10
    folder:<path>             the images of a folder
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING, Any

from qbench_suite import DatasetEntry, Family, ModelEntry, hookimpl

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset


@hookimpl
def qbench_register_models(register: Callable[[ModelEntry | Family[ModelEntry]], None]) -> None:
    """Register the models of timm and of torchvision, and checkpoint files."""
    for source, make in (("timm", _timm), ("torchvision", _torchvision)):
        model = rf"{source}:(?P<model>[^@+/]+)"
        register(Family(f"{source}:<model>", model, make))
        register(
            Family(f"{source}:<model>+pretrained", rf"{model}(?P<published>\+pretrained)", make)
        )
        register(Family(f"{source}:<model>@<file>", rf"{model}@(?P<file>.+)", make))
    # No colon: whatever has one is the name of some family, of this plugin or another.
    file = r"(?P<file>[^:]+\.(?:safetensors|pth|pt|bin))"
    register(Family("<folder>/<model>.<safetensors|pth|pt|bin>", file, _timm))


@hookimpl
def qbench_register_datasets(
    register: Callable[[DatasetEntry | Family[DatasetEntry]], None],
) -> None:
    """Register ``cifar10`` and the folders."""
    register(
        DatasetEntry(
            name="cifar10",
            load=_cifar10,
            num_classes=10,
            description="CIFAR-10: 32x32 colour photographs, 50,000 to train and 10,000 to test",
        )
    )
    register(Family("folder:<path>", r"folder:(?P<path>.+)", _folder))


@hookimpl
def qbench_machine_info(info: dict[str, Any]) -> None:
    """Add ``torchvision_version``; empty where it is not installed."""
    try:
        info["torchvision_version"] = metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        info["torchvision_version"] = ""


# torch, timm and torchvision take seconds to import; naming the families must not.
def _timm(match: re.Match[str]) -> ModelEntry:
    from qbench_vision.timm_models import entry

    return entry(match)


def _torchvision(match: re.Match[str]) -> ModelEntry:
    from qbench_vision.torchvision_models import entry

    return entry(match)


def _folder(match: re.Match[str]) -> DatasetEntry:
    from qbench_vision.folders import entry

    return entry(match)


def _cifar10(split: str) -> Dataset[tuple[Tensor, int]]:
    from qbench_vision.cifar import load

    return load(split)
