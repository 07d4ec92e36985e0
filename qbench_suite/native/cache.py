"""Files that are built once and kept: whole or not at all, whoever else builds them at the same time."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from filelock import FileLock

#: Name under which the digest of a file stands among its facts.
_DIGEST = "sha256"


def cache_folder(kind: str) -> Path:
    """Where files of this kind are kept: in ``QBENCH_CACHE``, else ``qbench_suite`` in the user's cache."""
    if chosen := os.environ.get("QBENCH_CACHE"):
        return Path(chosen) / kind
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "qbench_suite" / kind


def cache_folders(kind: str) -> Iterator[Path]:
    """Where a file may be kept, best first; a cache that cannot be written costs only time."""
    yield cache_folder(kind)
    with contextlib.suppress(OSError):  # nowhere to write at all: what the cache said stands
        yield Path(_temporary(kind).name)


@functools.cache
def _temporary(kind: str) -> tempfile.TemporaryDirectory[str]:
    """A folder of this process alone; it goes when the process ends."""
    return tempfile.TemporaryDirectory(prefix=f"qbench-{kind}-")


def kept(target: Path) -> dict[str, str] | None:
    """What was noted of ``target`` when it was built; None where it is not there, or not whole."""
    try:
        facts: dict[str, str] = json.loads(_notes(target).read_text(encoding="utf-8"))
        return facts if facts[_DIGEST] == _digest(target) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def build_once(target: Path, build: Callable[[Path], Mapping[str, str]]) -> dict[str, str]:
    """Have ``build`` write ``target`` unless it is there, whole; what was noted of it.

    ``build`` is given the path to write to, and returns what is to be noted. Others who want the same
    file wait for it. What ``build`` raises is passed on, and nothing is left behind.

    Raises:
        OSError: the folder cannot be written.
    """
    facts = kept(target)
    if facts is not None:
        return facts
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        facts = kept(target)
        if facts is not None:
            return facts
        part = target.with_suffix(f".{os.getpid()}.part")
        try:
            facts = {**build(part), _DIGEST: _digest(part)}
            # Notes come first: until the file itself is in place, they do not fit what is there.
            _notes(target).write_text(json.dumps(facts, indent=1), encoding="utf-8")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    return facts


def _notes(target: Path) -> Path:
    return target.with_suffix(".json")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
