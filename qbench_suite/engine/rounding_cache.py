"""Rounded weights kept on disk, a file a layer, so that none is rounded twice, nor lost to a kill."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from qbench_suite.calibration import RoundedWeight
from qbench_suite.layers import LinearMap

#: What a file says of a rounded weight besides its codes.
_FACTS = ("sqnr_before_db", "sqnr_after_db", "flipped", "seconds", "kept")


class RoundingCache:
    """Rounded weights of one model by one policy, in files of a folder; None keeps nothing.

    ``facts``: all that the codes depend on, as plain JSON. A file holds the digest of them that it was
    written for. One that cannot be read, is of other facts, or holds codes that are none is told by a
    warning and counts as absent; so does a folder that cannot be written.
    """

    def __init__(self, folder: Path | None, model: str, facts: Mapping[str, Any]) -> None:
        self._folder, self._model = folder, re.sub(r"[^A-Za-z0-9_.+-]", ".", model)[-80:]
        self._key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def path(self, name: str) -> Path | None:
        """The file of the layer ``name``."""
        if self._folder is None:
            return None
        digest = hashlib.sha256(f"{self._key} {name}".encode()).hexdigest()[:16]
        return self._folder / f"{self._model}-{digest}.rounding.safetensors"

    def load(self, name: str, layer: LinearMap, low: int, high: int) -> RoundedWeight | None:
        """The weight of ``layer`` as it was rounded before; None where it was not."""
        path = self.path(name)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as held:
                facts, codes = held.metadata() or {}, held.get_tensor("codes").to(torch.int32)
            wrong = self._wrong(facts, codes, layer, low, high)
            read = {fact: json.loads(facts[fact]) for fact in _FACTS} if not wrong else {}
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            wrong = str(error)
        if wrong:
            _warn(f"The rounded weight in {path} cannot be used and is computed again: {wrong}.")
            return None
        return RoundedWeight(codes, **read)

    def save(self, name: str, rounded: RoundedWeight) -> None:
        """Keep ``rounded``, whole or not at all; a warning, once, where that fails."""
        path = self.path(name)
        if path is None:
            return
        facts = {fact: json.dumps(getattr(rounded, fact)) for fact in _FACTS}
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"codes": _packed(rounded.codes)}, partial, {"key": self._key, **facts})
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                partial.unlink()
            _warn(
                f"Rounded weights are kept in a folder that can be written; {path.parent}: {error}. "
                "They are computed anew each time. Free space there, or pass --qbench-fp32-cache none."
            )
            self._folder = None

    def _wrong(
        self, facts: Mapping[str, str], codes: Tensor, layer: LinearMap, low: int, high: int
    ) -> str:
        """What speaks against the content of a file; nothing where it is sound."""
        if facts.get("key") != self._key:
            return "it was written for something else"
        shape = tuple(layer.weight_record().source.shape)
        if tuple(codes.shape) != shape:
            return f"it holds {tuple(codes.shape)} codes for a weight of {shape}"
        if codes.numel() and not low <= int(codes.min()) <= int(codes.max()) <= high:
            return f"it holds codes outside {low} … {high}"
        return ""


def _packed(codes: Tensor) -> Tensor:
    """``codes`` in the smallest dtype that holds them."""
    for dtype in (torch.int8, torch.int16):
        if torch.equal(codes.to(dtype).to(codes.dtype), codes):
            return codes.to(dtype)
    return codes


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)
