"""Vision models and image datasets from elsewhere: timm, torchvision, checkpoint files, folders.

Models:
    timm:<model>              a timm architecture, random weights that are the same every time
    timm:<model>+pretrained   the same with published weights; <model> may carry timm's tag
    timm:<model>@<file>       the same with the weights of a checkpoint, loaded strictly
    torchvision:<model>…      likewise, the classification models of torchvision
    cifar:<model>…            ResNets for CIFAR, random weights or those of a checkpoint
    <folder>/<model>.pth      a checkpoint named after its timm architecture

Datasets:
    cifar10, cifar100         CIFAR
    imagenette…               ten classes of ImageNet, in three sizes
    tiny-imagenet             200 classes of ImageNet
    imagenet-val              the validation images of ImageNet, from a folder
    folder:<path>             the images of a folder
    npz:<path>                images and labels in a NumPy archive
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING, Any

from qbench_suite import Family, ModelEntry, hookimpl
from qbench_vision.datasets import entries

if TYPE_CHECKING:
    from qbench_suite import DatasetEntry


@hookimpl
def qbench_register_models(register: Callable[[ModelEntry | Family[ModelEntry]], None]) -> None:
    """Register the models of timm and of torchvision, ResNets for CIFAR, and checkpoint files."""
    for source, make in (("timm", _timm), ("torchvision", _torchvision)):
        model = rf"{source}:(?P<model>[^@+/]+)"
        register(Family(f"{source}:<model>", model, make))
        register(
            Family(f"{source}:<model>+pretrained", rf"{model}(?P<published>\+pretrained)", make)
        )
        register(Family(f"{source}:<model>@<file>", rf"{model}@(?P<file>.+)", make))
    for name, file in (("", ""), ("@<file>", r"@(?P<file>.+)")):
        register(Family(f"cifar:<model>{name}", rf"cifar:(?P<model>[^@+/]+){file}", _cifar_resnet))
    # No colon: whatever has one is the name of some family, of this plugin or another.
    file = r"(?P<file>[^:]+\.(?:safetensors|pth|pt|bin))"
    register(Family("<folder>/<model>.<safetensors|pth|pt|bin>", file, _timm))


@hookimpl
def qbench_register_datasets(
    register: Callable[[DatasetEntry | Family[DatasetEntry]], None],
) -> None:
    """Register the datasets; ``entries`` lists them."""
    for entry in entries():
        register(entry)


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


def _cifar_resnet(match: re.Match[str]) -> ModelEntry:
    from qbench_vision.cifar_resnets import entry

    return entry(match)
