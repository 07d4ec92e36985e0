"""Weights of the zoo: float32 safetensors, loaded strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as serialise
from torch import Tensor, nn

from qbench_suite import ModelError
from qbench_zoo.architectures import architecture
from qbench_zoo.atomic import write_atomically

#: Folder of this package: ``weights/`` and ``cards/`` lie in it.
PACKAGE = Path(__file__).parent


def weights_path(name: str, folder: Path = PACKAGE) -> Path:
    """Return where the weights of model ``name`` lie below ``folder``."""
    return folder / "weights" / f"{name}.safetensors"


def save_weights(model: nn.Module, name: str, folder: Path = PACKAGE) -> Path:
    """Write the parameters and buffers of ``model`` atomically and return the path.

    Raises:
        OSError: the folder cannot be written.
    """
    path = weights_path(name, folder)
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    write_atomically(path, serialise(tensors))
    return path


def load_model(name: str, folder: Path = PACKAGE) -> nn.Module:
    """Return a new trained module: eval mode, float32, on the CPU.

    It takes normalised digits of shape (batch, 1, 32, 32) and returns logits (batch, 10).

    Raises:
        ModelError: there is no such model, or its weights are missing, unreadable or another's.
    """
    chosen = architecture(name)
    path = weights_path(name, folder)
    tensors = _read(path, name)
    # The initial weights are overwritten, but drawing them would move the caller's generator.
    with torch.random.fork_rng(devices=[]):
        model = chosen.build()
    difference = _difference(model.state_dict(), tensors)
    if difference:
        raise _unusable(path, name, f"hold the tensors of {chosen.timm_name}", difference)
    model.load_state_dict(tensors)
    return model.eval()


def _read(path: Path, name: str) -> dict[str, Tensor]:
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        raise _unusable(path, name, "lie beside the plugin", "there is no such file") from None
    except (OSError, SafetensorError) as error:
        raise _unusable(path, name, "be a readable safetensors file", str(error)) from error


def _difference(expected: Mapping[str, Tensor], received: Mapping[str, Tensor]) -> str:
    for key in sorted(expected.keys() | received.keys()):
        if key not in received:
            return f"{key} is missing"
        if key not in expected:
            return f"{key} is unknown to the architecture"
        # Types are compared too: load_state_dict would silently widen half-precision weights.
        if _signature(expected[key]) != _signature(received[key]):
            return f"{key} is {_signature(received[key])} where {_signature(expected[key])} fits"
    return ""


def _signature(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _unusable(path: Path, name: str, invariant: str, received: str) -> ModelError:
    return ModelError(
        f"the weights of {name} must {invariant}; at {path}: {received}; "
        f"make them anew with `qbench zoo train {name}`"
    )
