"""Effects: what a choice of quantized layers does to a model, kept so that none is measured twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qbench_suite.errors import ResultsError


@dataclass(frozen=True)
class Effect:
    """A model with some of its layers quantized, against its float original on the same images."""

    #: Mean Kullback-Leibler divergence in nat; None where no image has one.
    kl: float | None
    #: Percent; None without labels.
    top1: float | None
    #: Images that it was measured on.
    images: int
    #: Images that went through the model at once, in the end.
    batch: int


class EffectJournal:
    """Effects by key in one file of JSON lines, one appended and flushed as each is known.

    ``settings``: what they all depend on; other settings have another file, so that nothing stale is
    found. A killed process loses the one it was at: a last line that is not whole is passed over.
    Raises ``ResultsError`` where the folder cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        text = json.dumps(settings, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        #: Of the settings.
        self.digest = digest
        self.path = folder / f"effects-{digest}.jsonl"
        self._known: dict[str, Effect] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self._read()
            else:
                self._append({"settings": dict(settings)})
        except OSError as error:
            raise self._unwritable(error) from error

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def get(self, key: str, label: str, measure: Callable[[], Effect]) -> Effect:
        """The effect under ``key``, measured now if it is not known; ``label`` says what it is."""
        if key not in self._known:
            effect = measure()
            try:
                self._append({"key": key, "label": label, **asdict(effect)})
            except OSError as error:
                raise self._unwritable(error) from error
            self._known[key] = effect
        return self._known[key]

    def _read(self) -> None:
        text = self.path.read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            try:
                held = json.loads(line)
                effect = Effect(held["kl"], held["top1"], held["images"], held["batch"])
                self._known[held["key"]] = effect
            except (ValueError, KeyError, TypeError):
                continue
        if text and not text.endswith("\n"):
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def _append(self, record: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def _unwritable(self, error: OSError) -> ResultsError:
        return ResultsError(
            f"Results go to a folder that can be written; {self.path.parent}: "
            f"{error.strerror or error}. Choose another with --results, or free space."
        )
