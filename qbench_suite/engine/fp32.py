"""Float logits of a model, kept in memory and on disk, so that every policy is compared with the same."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from qbench_suite.engine.fingerprint import content

#: Bytes of the digest that an input is known by.
_DIGEST_BYTES = 16
#: Part of the largest logit that two computations of the same logits may differ by.
_ALIKE = 1e-4


class FloatLogits:
    """Logits of a float model by the content of its input, in memory and in one file of a folder.

    The file is named after ``fingerprint``, what the logits depend on beyond the input; inputs are
    known by their content, so that other preprocessing or another subset gives other inputs. The
    first logits out of the file that are asked for are computed again: where they differ, the file is
    dropped with a warning. So is one that cannot be read. A folder that cannot be written, or read,
    gives a warning too, and logits stay in memory.
    """

    def __init__(self, name: str, fingerprint: str, folder: Path | None) -> None:
        self._path = folder and folder / _file_name(name, fingerprint)
        self._rows: dict[bytes, Tensor] = _read(self._path) if self._path else {}
        self._saved = len(self._rows)
        #: Images whose logits are those of the file, until some of them have been computed again.
        self._unchecked = frozenset(self._rows)

    def get(self, images: Tensor) -> Tensor | None:
        """Logits of ``images`` (images, *input_size) on the CPU, as they were put; None unless of all."""
        return self._get(_digests(images))

    def put(self, images: Tensor, logits: Tensor) -> None:
        """Remember the ``logits`` (images, classes) of ``images``."""
        self._put(_digests(images), logits)

    def logits(self, images: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits of ``images``: remembered ones, or those of ``run``, which are remembered."""
        digests = _digests(images)
        found = self._get(digests)
        if found is None or not self._unchecked.isdisjoint(digests):
            found = run(images)
            self._put(digests, found)
        return found

    def save(self) -> None:
        """Write what is new to the file, whole or not at all; a warning, once, where that fails."""
        if self._path is None or len(self._rows) == self._saved:
            return
        kinds = {tuple(row.shape) for row in self._rows.values()}
        if len(kinds) != 1:
            return
        partial = self._path.with_suffix(f".{os.getpid()}.partial")
        digests = torch.frombuffer(bytearray(b"".join(self._rows)), dtype=torch.uint8)
        tensors = {
            "digests": digests.view(-1, _DIGEST_BYTES),
            "logits": torch.stack(list(self._rows.values())),
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, partial)
            partial.replace(self._path)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                partial.unlink()
            _warn(
                f"Float logits are kept in a folder that can be written; {self._path.parent}: {error}. "
                "They stay in memory. Free space there, or pass --qbench-fp32-cache none."
            )
            self._path = None
        self._saved = len(self._rows)

    def _get(self, digests: list[bytes]) -> Tensor | None:
        found = [self._rows.get(digest) for digest in digests]
        known = [row for row in found if row is not None]
        return torch.stack(known) if known and len(known) == len(found) else None

    def _put(self, digests: list[bytes], logits: Tensor) -> None:
        rows = dict(zip(digests, logits.detach().to("cpu", torch.float32).unbind(), strict=True))
        both = self._unchecked & rows.keys()
        if both:
            self._unchecked = frozenset()
            if not all(_alike(self._rows[digest], rows[digest]) for digest in both):
                self._drop()
        self._rows.update(rows)

    def _drop(self) -> None:
        _warn(
            f"Float logits in {self._path} are not those that the model gives now. They are dropped "
            "and computed again."
        )
        self._rows.clear()
        self._saved = 0
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()


def _alike(held: Tensor, computed: Tensor) -> bool:
    """Whether they differ by what another order of summation explains; NaN equals NaN."""
    if held.shape != computed.shape:
        return False
    finite = computed[computed.isfinite()].abs()
    margin = _ALIKE * float(finite.max()) if len(finite) else 0.0
    return torch.allclose(held, computed, rtol=0.0, atol=margin, equal_nan=True)


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def _file_name(name: str, fingerprint: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9_.+-]', '.', name)[-80:]}-{fingerprint[:16]}.safetensors"


def _digests(images: Tensor) -> list[bytes]:
    """A digest of the content of each image."""
    return [
        hashlib.blake2b(content(image), digest_size=_DIGEST_BYTES).digest()
        for image in images.detach().cpu().unbind()
    ]


def _read(path: Path) -> dict[bytes, Tensor]:
    """Rows of the file by digest; none, with a warning, for a file that is not whole."""
    try:
        if not path.is_file():
            return {}
        held = load_file(path)
        digests, logits = held["digests"], held["logits"]
        if len(digests) != len(logits) or digests.shape[1:] != (_DIGEST_BYTES,):
            raise ValueError("digests and logits do not go together")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        _warn(f"Float logits in {path} cannot be read and are computed again: {error}.")
        return {}
    keys = [row.tobytes() for row in digests.numpy()]
    return dict(zip(keys, logits.unbind(), strict=True))
