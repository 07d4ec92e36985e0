"""How rows are held by threads: a function of their length, dtype and the architecture, nothing else.

The number of rows has no part in it, so that a row has the same bits in every batch. row_tuning.py says
how a file overrides what is chosen here.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench_norms_cuda.row_tuning import override_of

if TYPE_CHECKING:
    from qbench_suite.gpu import Architecture

#: Bytes that one thread loads at once.
VECTOR_BYTES = 16
#: Threads of a warp, and of a block that has several rows.
WARP = 32
SEVERAL = 128
#: Elements of a slice, where a row is cut; as in row_forward.cuh.
SLICE = 8192
#: Threads of a block that holds (its part of) a row in shared memory, and of one that holds a slice.
_SHARED_THREADS = 512
_SLICE_THREADS = 256
#: Bytes of a block's static shared memory, rounded up, that leave less for rows.
_SCRATCH_BYTES = 2048


@dataclass(frozen=True)
class Rung:
    """What is best on one generation of devices.

    ``items``: vectors that a thread holds in registers, by the bytes of an element; ``odd_items``: at
    most, where a row is no whole number of vectors, as shifting takes registers. ``threads``: of a
    row in registers, at most, by the bytes of an element. ``slice_bytes``: bytes of a row that a block
    of a cluster holds, where a smaller cluster would hold more; ``cluster``: blocks of one at most.
    """

    items: tuple[tuple[int, int], ...] = ((2, 4), (4, 8))
    odd_items: int = 4
    threads: tuple[tuple[int, int], ...] = ((2, 512), (4, 384))
    slice_bytes: int = 65_536
    cluster: int = 8


#: By major compute capability; the nearest below counts.
LADDER: dict[int, Rung] = {
    7: Rung(cluster=1),
    8: Rung(cluster=1),
    9: Rung(),
    10: Rung(),
    12: Rung(),
}


@dataclass(frozen=True)
class Holding:
    """Where a row is while it is worked on."""

    #: Threads of a row, or of one block of those that share it.
    lanes: int
    #: Vectors of a thread in registers; 0 where they are in shared memory.
    items: int
    #: Vectors of a thread in shared memory.
    shared_items: int = 0
    #: Blocks that hold one row together.
    cluster: int = 1
    #: Slices that the row is cut into; 1 for a row that is read once.
    slices: int = 1

    @property
    def block(self) -> int:
        """Threads of a block."""
        return SEVERAL if self.lanes <= WARP else self.lanes

    @property
    def rows_of_block(self) -> int:
        """Rows of a block."""
        return self.block // self.lanes

    @property
    def shared_bytes(self) -> int:
        """Bytes of dynamic shared memory of a block."""
        return self.shared_items * self.lanes * VECTOR_BYTES


def rung_of(architecture: Architecture) -> Rung:
    """The entry of ``LADDER`` for an architecture."""
    return LADDER[max(major for major in LADDER if major <= max(architecture.major, min(LADDER)))]


@functools.lru_cache(maxsize=1024)
def holding(n: int, element_bytes: int, architecture: Architecture, chunk: int = 0) -> Holding:
    """How rows of ``n`` elements are held; ``chunk``: elements that a scale is for, 0 without.

    In registers of 8, 16 or 32 lanes, of a block, in the shared memory of a cluster, or in slices.

    Raises:
        KernelError: overrides of the ladder that make no sense.
    """
    rung = rung_of(architecture)
    told = override_of(n, element_bytes, architecture)
    vectors = -(-n * element_bytes // VECTOR_BYTES)
    items = told.get("items", dict(rung.items)[element_bytes])
    threads = told.get("threads", dict(rung.threads)[element_bytes])
    if n * element_bytes % VECTOR_BYTES:
        items = min(items, rung.odd_items)
    # The lanes of a chunk are neighbours, in one item.
    lanes = max(8, chunk * element_bytes // VECTOR_BYTES)
    while lanes < WARP and vectors > lanes * items:
        lanes *= 2
    if vectors > lanes * items:
        lanes = -(-vectors // (WARP * items)) * WARP
    if lanes <= threads:
        return Holding(lanes, max(-(-vectors // lanes), 1))
    slice_bytes, cluster = (
        told.get("slice_bytes", rung.slice_bytes),
        told.get("cluster", rung.cluster),
    )
    return _in_shared(vectors, slice_bytes, cluster, architecture) or Holding(
        _SLICE_THREADS,
        SLICE * element_bytes // VECTOR_BYTES // _SLICE_THREADS,
        slices=-(-n // SLICE),
    )


def _in_shared(
    vectors: int, slice_bytes: int, most: int, architecture: Architecture
) -> Holding | None:
    cluster, most = 1, min(most, architecture.max_cluster)
    while cluster < most and vectors * VECTOR_BYTES > cluster * slice_bytes:
        cluster *= 2
    held = Holding(_SHARED_THREADS, 0, -(-vectors // (cluster * _SHARED_THREADS)), cluster)
    return held if held.shared_bytes + _SCRATCH_BYTES <= architecture.shared_bytes else None
