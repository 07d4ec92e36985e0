"""What fields of norm kernels and operations must hold, told where they are made and not by what breaks."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from qbench_suite.errors import KernelError


def require_words(
    field: str, given: object, known: Collection[str] | None = None, *, some: bool = True
) -> None:
    """Raise ``KernelError`` unless ``given`` is a tuple of words, each of ``known`` where there is that.

    ``field``: what it is, as in the message. ``some``: whether it needs to hold at least one.
    """
    if isinstance(given, tuple | list) and (given or not some):
        fits = (isinstance(word, str) and (known is None or word in known) for word in given)
        if all(fits):
            return
    least = " at least one of" if some else ""
    words = ", ".join(known) if known is not None else "names"
    raise KernelError(f"{field} is a tuple of{least} {words}; got {given!r}. Correct it.")


def require_tolerances(field: str, given: object) -> None:
    """Raise ``KernelError`` unless ``given`` maps names of torch's dtypes to numbers of at least 0."""
    if isinstance(given, Mapping) and all(map(_is_tolerance, given, given.values())):
        return
    raise KernelError(
        f"{field} is a mapping from names of torch's dtypes, as 'bfloat16', to ulps of at least 0; got "
        f"{given!r}. Correct it."
    )


def _is_tolerance(dtype: object, ulps: object) -> bool:
    named = isinstance(dtype, str) and isinstance(getattr(torch, dtype, None), torch.dtype)
    return named and isinstance(ulps, int | float) and ulps >= 0
