"""What to say of a name that a library does not know."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def nearest(name: str, known: Sequence[str]) -> str:
    """Return a remedy for ``name``: the nearest of ``known``, or the first few of them."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return f"Known: {some(sorted(known))}."


def some(names: Sequence[str], limit: int = 4) -> str:
    """Return ``names`` joined by commas; beyond ``limit`` an ellipsis stands for the rest."""
    return ", ".join([*names[:limit], *(["…"] if len(names) > limit else [])])
