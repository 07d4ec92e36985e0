"""Unfinished evaluations, kept so that a later run of the same case goes on from there."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

#: Seconds between two saves.
_INTERVAL_S = 20.0


class Unfinished:
    """The state of one evaluation in a file, valid for the same facts and the same images only.

    ``folder`` None keeps nothing. ``facts`` are digests by what they are of; ``content`` gives a digest
    of the first n inputs and labels, for the n at ``position`` of a state. A file that is damaged, or
    was written for anything else, counts as absent, with a warning that says why. So does, on the way
    out, a folder that cannot be written: going on later is an extra.
    """

    def __init__(
        self,
        folder: Path | None,
        case: str,
        facts: Mapping[str, str],
        content: Callable[[int], str] = str,
    ) -> None:
        name = hashlib.sha256(case.encode()).hexdigest()[:16]
        self.path = folder and folder / f"{name}.json"
        self._case, self._facts, self._content = case, facts, content
        self._due = time.monotonic() + _INTERVAL_S
        self._warned = False

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last; None where there is none of these facts and images."""
        if self.path is None:
            return None
        try:
            held = json.loads(self.path.read_text(encoding="utf-8"))
            state = dict(held["state"])
            changed = self._changed(held, state)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            changed, state = "its file cannot be read", {}
        if changed:
            self._warn(
                f"{self._case} starts over, its unfinished evaluation is dropped: {changed}."
            )
        return None if changed else state

    def _changed(self, held: dict[str, Any], state: dict[str, Any]) -> str:
        """What is not as it was when ``held`` was saved; empty where nothing is."""
        known = {"case": self._case, **self._facts}
        saved = {"case": held["case"], **held["facts"]}
        names = [name for name in (known | saved) if known.get(name) != saved.get(name)]
        if names:
            return f"{', '.join(names)} changed"
        same = held["content"] == self._content(int(state["position"]))
        return "" if same else "images or labels that it counted changed"

    def due(self) -> bool:
        """Whether the last save is long enough ago."""
        return time.monotonic() >= self._due

    def save(self, state: dict[str, Any]) -> None:
        """Write ``state``, whole or not at all; a warning, once, where that fails."""
        if self.path is None:
            return
        self._due = time.monotonic() + _INTERVAL_S
        partial = self.path.with_suffix(f".{os.getpid()}.partial")
        held = {
            "case": self._case,
            "facts": dict(self._facts),
            "content": self._content(int(state["position"])),
            "state": state,
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(held), encoding="utf-8")
            partial.replace(self.path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            if not self._warned:
                self._warned = True
                self._warn(
                    f"Unfinished evaluations are kept beside the journal; {self.path}: {error}. "
                    f"{self._case} cannot go on from here later. Free space."
                )

    def finish(self) -> None:
        """Forget the state: the evaluation is whole."""
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink()

    def _warn(self, message: str) -> None:
        warnings.warn(message, RuntimeWarning, stacklevel=3)
