"""The plugin as the suite meets it: families, patterns and hooks."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from typing import Any

import pytest

import qbench_vision
from qbench_suite import Family, NameNotFoundError
from qbench_suite.manager import Manager


def families_of(name: str) -> list[str]:
    """Names of the model families that answer to ``name``."""
    families: list[Any] = []
    qbench_vision.qbench_register_models(register=families.append)
    assert all(isinstance(family, Family) for family in families)
    return [family.name for family in families if re.fullmatch(family.pattern, name)]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("timm:resnet18", "timm:<model>"),
        ("timm:resnet18.a1_in1k", "timm:<model>"),
        ("timm:resnet18.a1_in1k+pretrained", "timm:<model>+pretrained"),
        ("timm:resnet18@/some/where@1/x.pth", "timm:<model>@<file>"),
        ("timm:resnet18@x+pretrained.pt", "timm:<model>@<file>"),
        ("torchvision:resnet18", "torchvision:<model>"),
        ("torchvision:resnet18+pretrained", "torchvision:<model>+pretrained"),
        ("torchvision:resnet18@x.safetensors", "torchvision:<model>@<file>"),
        ("cifar:resnet20", "cifar:<model>"),
        ("cifar:resnet20@/some/x.safetensors", "cifar:<model>@<file>"),
        ("/some/where/resnet18.safetensors", "<folder>/<model>.<safetensors|pth|pt|bin>"),
        ("resnet18.pth", "<folder>/<model>.<safetensors|pth|pt|bin>"),
    ],
)
def test_a_name_belongs_to_one_family(name: str, family: str) -> None:
    assert families_of(name) == [family]


@pytest.mark.parametrize(
    "name", ["resnet", "vit", "timm:", "timm:a/b.pth", "other:resnet18", "other:a@/x.pth", "x.onnx"]
)
def test_other_names_are_left_to_others(name: str) -> None:
    assert families_of(name) == []


def test_unknown_suffix_gets_the_families(manager: Manager) -> None:
    with pytest.raises(NameNotFoundError, match="timm:<model>"):
        manager.models.get("timm:resnet18+trained")


def test_selection_takes_names_without_wildcard(manager: Manager) -> None:
    names = "timm:test_vit,torchvision:resnet18"
    assert manager.models.select(names) == names.split(",")


def test_every_dataset_is_got_by_one_command(manager: Manager) -> None:
    names = ["cifar10", "cifar100", "imagenet-val", "imagenette", "imagenette-160"]
    assert manager.datasets.names() == [*names, "imagenette-320", "tiny-imagenet"]
    assert manager.datasets.families() == ["folder:<path>", "npz:<path>"]
    for entry in manager.datasets:
        assert entry.prepare
        assert entry.location
        assert entry.load_images
        assert entry.description


def test_registering_imports_no_heavy_library() -> None:
    script = (
        "import sys, qbench_vision as vision\n"
        "vision.qbench_register_models(register=print)\n"
        "vision.qbench_register_datasets(register=print)\n"
        "vision.qbench_machine_info(info={})\n"
        "assert not {'torch', 'timm', 'torchvision', 'PIL', 'numpy'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_machine_info(monkeypatch: pytest.MonkeyPatch) -> None:
    info: dict[str, Any] = {}
    qbench_vision.qbench_machine_info(info=info)
    assert info == {"torchvision_version": metadata.version("torchvision")}

    def absent(_name: str) -> str:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "version", absent)
    qbench_vision.qbench_machine_info(info=info)
    assert info == {"torchvision_version": ""}
