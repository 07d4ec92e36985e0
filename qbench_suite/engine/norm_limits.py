"""Speeds that no norm kernel can have: beyond the memory's, or far beyond a copy's in the same cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench_suite.timing import gb_per_s

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench_suite.results.norm_rows import NormRow

#: A kernel that reads more than it writes may beat a copy a little.
_OVER_COPY = 1.05
#: In a cache a copy is bound by its writes and its call: some kernels beat it by two or three times.
_OVER_CACHED_COPY = 8
#: Copies on the host that are shorter tell the time of a call, not that of its bytes.
_SHORTEST_MS = 0.01


def too_fast(row: NormRow) -> str:
    """Why a latency cannot be true; nothing where all can.

    Cold: no more than the peak of the memory, the copy neither; where the device does not tell it,
    1.05 times the copy. In a cache: 8 times a copy of as many bytes there, on the host the fastest of
    those timed and only where that took 10 µs.
    """
    for measured, limit, what in _limits(row):
        if measured > limit:
            return (
                f"Bytes come no faster than {what}, {limit:.0f} GB/s; {measured:.0f} GB/s were "
                "measured. Suspect the timer, the bytes that the operation counts, or a call that "
                "returns what it computed before."
            )
    return ""


def _limits(row: NormRow) -> Iterator[tuple[float, float, str]]:
    """What was measured, what it can be at most, and what that is; in GB/s."""
    moved, copy, peak = row.bytes_moved or 0, row.copy_gb_per_s, row.peak_gb_per_s
    if row.gb_per_s is None or copy is None:
        return
    warm = f"{_OVER_CACHED_COPY} times a copy of as many bytes in a cache"
    if row.cache == "cold" and peak is None:
        yield row.gb_per_s, copy * _OVER_COPY, f"{_OVER_COPY} times a copy of as many bytes"
    elif row.cache == "cold" and peak is not None:
        memory = "the peak of the device's memory"
        yield row.gb_per_s, peak, memory
        yield copy, peak, f"{memory} (this is the copy)"
    elif row.method == "wall_clock":
        fastest = row.copy_max_gb_per_s or 0.0
        if fastest and moved / fastest * 1e-6 >= _SHORTEST_MS:
            yield row.gb_per_s, fastest * _OVER_CACHED_COPY, warm
    if row.warm_copy_gb_per_s is not None:
        limit = row.warm_copy_gb_per_s * _OVER_CACHED_COPY
        if row.cache == "warm":
            yield row.gb_per_s, limit, warm
        if row.warm_latency_ms is not None:
            yield gb_per_s(moved, row.warm_latency_ms * 1e-3), limit, warm
