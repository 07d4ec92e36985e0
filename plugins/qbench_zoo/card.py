"""The card of a model: what it is, how it was trained, how good it is, and which bytes it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qbench_suite import ModelError
from qbench_zoo.atomic import write_atomically
from qbench_zoo.weights import PACKAGE


@dataclass(frozen=True, kw_only=True)
class Card:
    """Facts about trained weights, as plain JSON types."""

    #: Name in the suite.
    name: str
    #: Name in ``timm.list_models()``.
    architecture: str
    #: Arguments of ``timm.create_model`` beyond the channels and the classes.
    kwargs: Mapping[str, Any]
    #: Number of trained numbers.
    parameters: int
    #: Size of the weights file in bytes.
    bytes: int
    #: SHA-256 of the weights file, in hexadecimal.
    sha256: str
    #: The fields of ``qbench_zoo.training.Recipe``.
    recipe: Mapping[str, Any]
    #: Wall-clock time of the training, in seconds.
    seconds: float
    #: Number of digits held out from training.
    held_out: int
    #: Share of the held-out digits that the model gets right, in percent.
    top1: float
    #: Version of torch that trained it.
    torch: str
    #: Version of timm that built it.
    timm: str


def card_path(name: str, folder: Path = PACKAGE) -> Path:
    """Return where the card of model ``name`` lies below ``folder``."""
    return folder / "cards" / f"{name}.json"


def write_card(card: Card, folder: Path = PACKAGE) -> Path:
    """Write ``card`` atomically below ``folder`` and return its path.

    Raises:
        OSError: the folder cannot be written.
    """
    path = card_path(card.name, folder)
    write_atomically(path, (json.dumps(asdict(card), indent=2) + "\n").encode())
    return path


def read_card(name: str, folder: Path = PACKAGE) -> Card:
    """Return the card of model ``name``.

    Raises:
        ModelError: it is missing, is not JSON, or lacks a fact.
    """
    path = card_path(name, folder)
    try:
        return Card(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"the card of {name} must state every fact about its weights; at {path}: {error}; "
            f"make it anew with `qbench zoo train {name}`"
        ) from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest()
