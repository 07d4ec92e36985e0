"""Bandwidth, and the copy that it is compared with."""

from __future__ import annotations

from collections.abc import Callable

import torch

_GIGA = 1e9


def copies(nbytes: int, sets: int, device: torch.device) -> list[Callable[[], object]]:
    """``sets`` copies between buffers of their own, each of which moves ``nbytes``.

    Half of them are read, half written. Buffers are written once here, so that they have pages.
    """
    half = max(nbytes // 2, 1)

    def one() -> Callable[[], object]:
        source, target = (torch.ones(half, dtype=torch.uint8, device=device) for _ in range(2))
        return lambda: target.copy_(source)

    return [one() for _ in range(sets)]


def gb_per_s(nbytes: int, seconds: float) -> float:
    """Gigabytes (10⁹) a second."""
    return nbytes / seconds / _GIGA
