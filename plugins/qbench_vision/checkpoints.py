"""Checkpoint files: read without running what is in them, and loaded strictly."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from qbench_suite import ModelError
from qbench_vision.names import some

#: Where trainers put the state dict in what they save, averaged weights first, as timm does.
NESTED_UNDER = ("state_dict_ema", "model_ema", "state_dict", "model")
#: What DataParallel and torch.compile put before every name.
WRAPPERS = ("module.", "_orig_mod.")
#: Types that a float32 parameter can be read from; an integer or FP8 one would lack its scale.
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a file by name, mapped from it rather than copied where it can be.

    ``.safetensors`` is read as such, anything else as what ``torch.save`` wrote. A state dict may
    be nested under a key of ``NESTED_UNDER``, and its names may begin with ``WRAPPERS``. Values are
    not looked at: NaN and ±Inf load.

    Raises:
        ModelError: the file is missing, unreadable, or holds no tensors; or it is a pickle that
            wants code to run, which is refused.
    """
    check_file(path)
    payload = _parse(path) if path.suffix == ".safetensors" else _unpickle(path)
    tensors = _state_dict(payload)
    if not tensors:
        raise ModelError(
            f"A checkpoint holds tensors by name, at most nested under {', '.join(NESTED_UNDER)}; "
            f"{path} holds {_outline(payload)}. Save model.state_dict()."
        )
    return _unwrapped(tensors)


def check_file(path: Path) -> None:
    """Raise ``ModelError`` where there is no file at ``path``."""
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise ModelError(
            f"A checkpoint is a file; {str(path)!r} {found}. Check the path; published weights are "
            "asked for as timm:<model>+pretrained."
        )


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Copy ``tensors`` into ``model``, all of both; ``what`` says which file and architecture.

    Raises:
        ModelError: tensors are missing, unexpected, or of another shape or type; the first few of
            each are named.
    """
    expected = model.state_dict()
    unfit = [key for key in tensors if key in expected and not _fits(tensors[key], expected[key])]
    # Asked of torch, as it forgives a counter that BatchNorm got after old checkpoints were saved.
    found = model.load_state_dict(
        {k: v for k, v in tensors.items() if k not in unfit}, strict=False
    )
    missing = [key for key in found.missing_keys if key not in unfit]
    faults = [
        _fault("missing", missing),
        _fault("unexpected", found.unexpected_keys),
        _fault("unfit", [f"{k} is {_type(tensors[k])} not {_type(expected[k])}" for k in unfit]),
    ]
    if any(faults):
        raise ModelError(
            f"A checkpoint holds the tensors of its architecture, no more and no less; {what}: "
            f"{'; '.join(filter(None, faults))}. Name the architecture it was saved from."
        )


def _parse(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, "a safetensors file", error) from error


def _unpickle(path: Path) -> object:
    try:
        # timm's trainer saves its arguments along; a Namespace is plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except Exception as error:
        refused = re.search(r"\bGLOBAL ([\w.]+)", str(error))
        if refused:
            raise ModelError(
                f"A checkpoint holds tensors, not code; {path} wants {refused[1]} to run and is "
                "refused. Where you trust it, load it yourself and save model.state_dict()."
            ) from None
        raise _unreadable(path, "what torch.save wrote", error) from error


def _unreadable(path: Path, kind: str, error: Exception) -> ModelError:
    # torch wraps the reason in advice on weights_only=False, which is no advice to pass on.
    reason = re.split(r"\n|\. ", str(error).rpartition("WeightsUnpickler error: ")[2].strip())[0]
    return ModelError(
        f"A checkpoint is readable; {path} is not {kind} ({type(error).__name__}: {reason}). "
        "Copy or save it anew; only safetensors files end in .safetensors."
    )


def _state_dict(payload: object) -> dict[str, Tensor]:
    """Tensors of ``payload`` by name, nested ones where it says so; empty where there are none."""
    if not isinstance(payload, Mapping):
        return {}
    for key in NESTED_UNDER:
        if isinstance(payload.get(key), Mapping):
            return _state_dict(payload[key])
    return {str(key): value for key, value in payload.items() if isinstance(value, Tensor)}


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if all(key.startswith(wrapper) for key in tensors):
            return _unwrapped({key.removeprefix(wrapper): v for key, v in tensors.items()})
    return tensors


def _fits(received: Tensor, expected: Tensor) -> bool:
    known_type = received.dtype in FLOATS or not expected.is_floating_point()
    return known_type and received.shape == expected.shape


def _fault(kind: str, keys: list[str]) -> str:
    return f"{len(keys)} {kind} ({some(keys)})" if keys else ""


def _type(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _outline(payload: Any) -> str:
    if isinstance(payload, Mapping):
        return f"the keys {some([repr(key) for key in payload])}" if payload else "nothing"
    return f"a {type(payload).__name__}"
