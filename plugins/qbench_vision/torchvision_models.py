"""Classification models of torchvision: random, published, or the weights of a checkpoint file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from qbench_suite import ModelEntry, ModelError
from qbench_vision.checkpoints import check_file, load_strictly, read_checkpoint
from qbench_vision.names import nearest
from qbench_vision.preprocessing import of_torchvision
from qbench_vision.seeding import fixed_weights

#: Models with heads that only training uses; they are left out, as no inference reaches them.
AUXILIARY_HEADS = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
#: The layer that gives the logits; of numbered ones the last.
HEAD = re.compile(r"(fc|head|heads\.head|classifier(\.\d)?)\.weight")


def entry(match: re.Match[str]) -> ModelEntry:
    """Return the entry of a name; its groups are ``model``, and ``published`` or ``file`` or neither.

    Preprocessing is that of the published weights, where these are asked for or the file is called
    like theirs; else the usual one of ImageNet at the size of the model's published weights.
    Nothing is built; of a file, the shapes are read: they tell the classes.

    Raises:
        ModelError: torchvision has no such classifier, or the file cannot be read.
    """
    groups = match.groupdict()
    model = groups["model"]
    if groups.get("file"):
        check_file(Path(groups["file"]).expanduser())
    weights = _weights(model)
    num_classes = len(weights.meta["categories"])
    build, description = partial(_random, model), "random weights"
    preset = _usual(weights.transforms())
    if groups.get("published"):
        build, description = partial(_published, model), "published weights"
        preset = weights.transforms()
    elif groups.get("file"):
        file = Path(groups["file"]).expanduser()
        num_classes = _num_classes(read_checkpoint(file), num_classes)
        build = partial(_from_file, model, file, num_classes)
        description = f"weights of {file.name}"
        preset = _preset_of_file(model, file) or preset
    transform, preprocessing = of_torchvision(preset)
    return ModelEntry(
        name=match[0],
        build=build,
        input_size=(3, *preset.crop_size * 2),
        num_classes=num_classes,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        transform=transform,
        preprocessing=preprocessing,
        description=f"torchvision {model}, {description}",
    )


def _weights(model: str) -> Any:
    known = models.list_models(module=models)
    if model not in known:
        raise ModelError(
            f"A torchvision model is one of its {len(known)} classifiers; got {model!r}. "
            f"{nearest(model, known)}"
        )
    return models.get_model_weights(model).DEFAULT


def _usual(published: Any) -> Any:
    """The preset that resizes to 8/7 of the crop of the ``published`` one: 256 for 224."""
    crop = published.crop_size[0]
    return type(published)(crop_size=crop, resize_size=round(crop * 8 / 7))


def _preset_of_file(model: str, file: Path) -> Any:
    """The preset of the published weights whose file is called so; None where there are none."""
    for weights in models.get_model_weights(model):
        if weights.url.rpartition("/")[2] == file.name:
            return weights.transforms()
    return None


def _random(model: str) -> nn.Module:
    with fixed_weights():
        return _create(model)


def _published(model: str) -> nn.Module:
    url = _weights(model).url
    try:
        with fixed_weights():
            return _create(model, weights="DEFAULT")
    except Exception as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ModelError(
            f"Published weights come from the network or from {folder}; those of torchvision's "
            f"{model} are in neither ({type(error).__name__}: {error}). Put {url} there, or pass "
            f"torchvision:{model}@<file>."
        ) from error


def _from_file(model: str, file: Path, num_classes: int) -> nn.Module:
    # Published files of the models with auxiliary heads, and what is trained further from them,
    # want inputs transformed the way their first training did.
    transform = {"transform_input": True} if model in AUXILIARY_HEADS else {}
    with fixed_weights():
        module = _create(model, num_classes=num_classes, **transform)
    unused = AUXILIARY_HEADS.get(model, ())
    tensors = {
        key: tensor
        for key, tensor in read_checkpoint(file).items()
        if key.partition(".")[0] not in unused
    }
    load_strictly(module, tensors, f"{file} as torchvision's {model}")
    return module


def _create(model: str, **options: Any) -> nn.Module:
    if model in AUXILIARY_HEADS and "weights" not in options:
        options["init_weights"] = True  # what torchvision does unasked, but then with a warning
    module: Any = models.get_model(model, **options)
    if model in AUXILIARY_HEADS:
        module.aux_logits = False
    for head in AUXILIARY_HEADS.get(model, ()):
        setattr(module, head, None)
    built: nn.Module = module.eval()
    return built


def _num_classes(tensors: dict[str, Tensor], default: int) -> int:
    heads: Iterable[str] = filter(HEAD.fullmatch, tensors)
    head = max(heads, default=None)
    return default if head is None else tensors[head].shape[0]
