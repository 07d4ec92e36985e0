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
from qbench_vision.checkpoints import load_strictly, read_checkpoint
from qbench_vision.names import nearest
from qbench_vision.seeding import fixed_weights

#: Models with heads that only training uses; they are left out, as no inference reaches them.
AUXILIARY_HEADS = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
#: The layer that gives the logits; of numbered ones the last.
HEAD = re.compile(r"(fc|head|heads\.head|classifier(\.\d)?)\.weight")


def entry(match: re.Match[str]) -> ModelEntry:
    """Return the entry of a name; its groups are ``model``, and ``published`` or ``file`` or neither.

    Size, mean and standard deviation of the input are those of the default weights' transforms.
    Nothing is built; of a file, the shapes are read: they tell the classes.

    Raises:
        ModelError: torchvision has no such classifier, or the file cannot be read.
    """
    groups = match.groupdict()
    model = groups["model"]
    weights = _weights(model)
    num_classes = len(weights.meta["categories"])
    build, description = partial(_random, model), "random weights"
    if groups.get("published"):
        build, description = partial(_published, model), "published weights"
    elif groups.get("file"):
        file = Path(groups["file"]).expanduser()
        num_classes = _num_classes(read_checkpoint(file), num_classes)
        build = partial(_from_file, model, file, num_classes)
        description = f"weights of {file.name}"
    transforms = weights.transforms()
    return ModelEntry(
        name=match[0],
        build=build,
        input_size=(3, *transforms.crop_size * 2),
        num_classes=num_classes,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
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
