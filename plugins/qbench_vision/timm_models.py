"""Models of timm: random weights, published weights, or those of a checkpoint file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import timm
from timm.data.config import resolve_data_config
from timm.models import get_pretrained_cfg, is_model, split_model_name_tag
from torch import Tensor, nn

from qbench_suite import ModelEntry, ModelError
from qbench_vision.checkpoints import check_file, load_strictly, read_checkpoint
from qbench_vision.names import nearest
from qbench_vision.preprocessing import of_timm
from qbench_vision.seeding import fixed_weights, open_branches

if TYPE_CHECKING:
    from timm.models import PretrainedCfg


def entry(match: re.Match[str]) -> ModelEntry:
    """Return the entry of a name; its groups are ``model``, and ``published`` or ``file`` or neither.

    Without ``model`` the file is named after it. Nothing is built; of a file, the shapes are read:
    they tell the classes and the input channels where these are not the architecture's own.

    Raises:
        ModelError: timm has no such model or no such weights, or the file cannot be read.
    """
    groups = match.groupdict()
    file = Path(groups["file"]).expanduser() if groups.get("file") else None
    if file:
        check_file(file)
    model = groups["model"] if "model" in groups else _named_by(Path(groups["file"]))
    config = _config(model)
    if file:
        return _of_file(match[0], model, config, file)
    if groups.get("published"):
        _check_published(model, config)
        return _entry(match[0], config, partial(_published, model), f"timm {model}, published")
    return _entry(match[0], config, partial(_random, model), f"timm {model}, random weights")


def _of_file(called: str, model: str, config: PretrainedCfg, file: Path) -> ModelEntry:
    tensors = read_checkpoint(file)
    own: dict[str, int] = {}
    classes = _shape(config.classifier, tensors)
    if classes and classes[0] != config.num_classes:
        own["num_classes"] = classes[0]
    stem = _shape(config.first_conv, tensors)
    if len(stem) == 4 and stem[1] != config.input_size[0]:
        own["in_chans"] = stem[1]
    build = partial(_from_file, model, file, own)
    return _entry(called, config, build, f"timm {model}, weights of {file.name}", **own)


def _entry(
    called: str,
    config: PretrainedCfg,
    build: Callable[[], nn.Module],
    description: str,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
) -> ModelEntry:
    resolve: Any = resolve_data_config
    data = resolve(pretrained_cfg=cast(Any, config).to_dict())
    channels = data["input_size"][0] if in_chans is None else in_chans
    data["input_size"] = (channels, *data["input_size"][1:])
    data |= {key: _each(data[key], channels) for key in ("mean", "std")}
    # No image has other channels than these.
    transform, preprocessing = of_timm(data) if channels in (1, 3) else (None, "")
    return ModelEntry(
        name=called,
        build=build,
        input_size=data["input_size"],
        num_classes=config.num_classes if num_classes is None else num_classes,
        mean=data["mean"],
        std=data["std"],
        transform=transform,
        preprocessing=preprocessing,
        description=description,
    )


def _each(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """``values`` of the published input, averaged where a checkpoint has other channels."""
    return values if len(values) == channels else (sum(values) / len(values),) * channels


def _shape(layer: str | tuple[str, ...] | None, tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Shape of the weight of ``layer``, of the first where there are many; empty where unknown."""
    first = layer if isinstance(layer, str) else next(iter(layer or ()), "")
    weight = tensors.get(f"{first}.weight")
    return () if weight is None else tuple(weight.shape)


def _random(model: str) -> nn.Module:
    with fixed_weights():
        module = timm.create_model(model).eval()
    open_branches(module)
    return module


def _from_file(model: str, file: Path, own: Mapping[str, Any]) -> nn.Module:
    with fixed_weights():
        module = timm.create_model(model, **own).eval()
    load_strictly(module, read_checkpoint(file), f"{file} as timm's {model}")
    return module


def _published(model: str) -> nn.Module:
    try:
        with fixed_weights():
            return timm.create_model(model, pretrained=True).eval()
    except Exception as error:
        raise ModelError(
            f"Published weights come from the Hugging Face hub or from its cache; those of timm's "
            f"{model} are in neither ({type(error).__name__}: {error}). Run once with network, copy "
            f"a filled cache and point HF_HUB_CACHE at it, or pass timm:{model}@<file>."
        ) from error


def _config(model: str) -> PretrainedCfg:
    """What timm knows of ``model``; raises ``ModelError`` for a model or a tag it does not have."""
    architecture, tag = split_model_name_tag(model)
    try:
        config = get_pretrained_cfg(model) if is_model(model) else None
    except RuntimeError:
        known = timm.list_models(f"{architecture}.*", pretrained=True)
        raise ModelError(
            f"The tag after a timm model's dot names published weights; {architecture} has none "
            f"called {tag!r}. {nearest(model, known)}"
        ) from None
    if config is None:
        raise ModelError(
            f"A timm model is one of the {len(timm.list_models())} of timm.list_models(); got "
            f"{model!r}. {nearest(architecture, timm.list_models())}"
        )
    return config


def _check_published(model: str, config: PretrainedCfg) -> None:
    if not config.has_weights:
        raise ModelError(
            f"+pretrained asks for published weights; timm's {model} has none. Pass timm:{model} for "
            f"random ones, or timm:{model}@<file>."
        )


def _named_by(file: Path) -> str:
    """The timm model a file is named after, with its tag where timm knows that."""
    stem = file.name.removesuffix(file.suffix)
    architecture = stem.partition(".")[0]
    if not is_model(architecture):
        raise ModelError(
            f"A checkpoint passed by its path alone is named after a timm model; {file.name!r} is not. "
            f"Pass timm:<model>@{file} or torchvision:<model>@{file}. "
            f"{nearest(architecture, timm.list_models())}"
        )
    return stem if stem in timm.list_models(f"{architecture}.*", pretrained=True) else architecture
