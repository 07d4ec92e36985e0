"""Short names of models: those of checkpoints hold a path, which no picture has room for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath


def short_names(names: Iterable[str]) -> dict[str, str]:
    """For each name the shortest that no other has: without its file, with the file's stem, or whole.

    ``timm:vit@some/folder/best.pth`` becomes ``timm:vit``, or ``timm:vit@best`` beside another of its
    kind; a path by itself becomes its stem.
    """
    whole = {name: name for name in names}
    left = dict(whole)
    chosen: dict[str, str] = {}
    for form in (_without_file, _with_stem, str):
        forms = {name: form(name) for name in left}
        counts = Counter(forms.values())
        alone = {n: f for n, f in forms.items() if counts[f] == 1 and f not in chosen.values()}
        chosen.update(alone)
        left = {name: name for name in left if name not in alone}
    # Where the whole name of one is the short name of another, all stay whole.
    return whole if left else chosen


def _without_file(name: str) -> str:
    model, at, _ = name.partition("@")
    return model if at else _stem(name)


def _with_stem(name: str) -> str:
    model, at, file = name.partition("@")
    return f"{model}@{_stem(file)}" if at else _stem(name)


def _stem(name: str) -> str:
    return PurePath(name).stem if "/" in name else name
