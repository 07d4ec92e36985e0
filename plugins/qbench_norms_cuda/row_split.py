"""How a backward spreads a row over threads and blocks, and rows over the device."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

from qbench_suite import Architecture

_WARP = 32
#: Threads of a block at most; a multiprocessor has registers for as many, of 128 each.
_MOST_THREADS = 512
#: Threads of a block that has several rows at once, or a tile of a long one.
_BLOCK = 256
#: Blocks of a cluster that holds a row: what every device with clusters allows.
_CLUSTERS = (2, 4, 8)
#: Elements of a row that a thread keeps in registers between the row's sums and its gradient.
_KEPT = 16
#: Bytes on their way to a multiprocessor that hide the latency of its memory.
_IN_FLIGHT = 64 << 10
_MOST_STAGES = 5
#: Shared memory of a block besides rows: what its threads tell each other, and what CUDA keeps for itself.
_SCRATCH = 2048
#: Rows for each block from which on partial sums of weights are a small part of what is moved.
_WORTHWHILE = 8


class _Share(NamedTuple):
    """What a thread, a block and a launch have of a row, in vectors of 16 bytes."""

    items: int
    threads: int
    block: int
    tiles: int
    tile: int
    clustered: bool


class RowSplit(NamedTuple):
    """Which part of a row a thread has: a function of the row's length and dtype, and of the device.

    A thread has ``items`` vectors of 16 bytes, a row (or a tile of it) ``threads`` threads of a
    ``block``, of which a multiprocessor has ``resident`` at once; ``stages`` rows are on their way.
    ``tiles`` above 1 are the blocks of a cluster where ``clustered``, else of launches of their own.
    """

    items: int
    threads: int
    block: int
    resident: int
    stages: int
    tiles: int
    tile_columns: int
    clustered: bool

    @property
    def tiled(self) -> bool:
        """Whether no block or cluster sees a whole row."""
        return self.tiles > 1 and not self.clustered

    def shared_bytes(self, tensors: int) -> int:
        """Shared memory of a block that reads so many tensors."""
        return self.stages * _stage_bytes(self.items, self.block, tensors)

    def parts(self, groups: int, rows: int, summed: bool, architecture: Architecture) -> int:
        """Among how many blocks the rows of each group are divided; at least 1.

        ``summed``: blocks give partial sums of weights, of which there had better be few.
        """
        share = groups * self.tiles
        walks = -(-rows // (self.block // self.threads))
        most = max(architecture.multiprocessors * self.resident // share, 1)
        if summed:
            least = min(max(architecture.multiprocessors // share, 1), most)
            most = max(least, min(most, walks // _WORTHWHILE))
        return -(-walks // -(-walks // most))


@functools.lru_cache(maxsize=4096)
def split_row(columns: int, itemsize: int, tensors: int, architecture: Architecture) -> RowSplit:
    """How a row of ``columns`` elements of ``itemsize`` bytes is spread, in each of ``tensors`` tensors.

    Short rows have a warp or less, longer ones a block, still longer ones a cluster where there are
    clusters, and the longest, or what shared memory does not hold twice, tiles of launches.
    """
    lanes = 16 // itemsize
    for share in _shares(-(-columns // lanes), lanes, architecture):
        stage, room = _stage_bytes(share.items, share.block, tensors), architecture.shared_bytes
        resident = min(_MOST_THREADS // share.block, room // (2 * stage + _SCRATCH))
        if not resident:
            continue
        useful = min(1 + -(-_IN_FLIGHT // (stage * resident)), _MOST_STAGES)
        stages = min(useful, (room // resident - _SCRATCH) // stage)
        return RowSplit(
            items=share.items,
            threads=share.threads,
            block=share.block,
            resident=resident,
            stages=stages,
            tiles=share.tiles,
            tile_columns=share.tile * lanes,
            clustered=share.clustered,
        )
    raise AssertionError(f"no block of {architecture} holds two tiles of {tensors} tensors")


def _shares(vectors: int, lanes: int, architecture: Architecture) -> Iterator[_Share]:
    """Ways to share a row of so many vectors, the best first; shared memory decides."""
    kept = _KEPT // lanes
    if vectors <= _WARP * kept:
        items = _power_of_two(-(-vectors // _WARP))
        threads = min(_power_of_two(vectors), _WARP)
        for block in (_BLOCK, _BLOCK // 2):
            yield _Share(items, threads, block, 1, vectors, False)
        return
    # One vector more than is kept in registers: read twice from shared memory, but still one block.
    for items in (kept, kept + 1) if lanes > 4 else (kept,):
        if (threads := _whole_warps(vectors, items)) <= _MOST_THREADS:
            yield _Share(items, threads, threads, 1, vectors, False)
    for tiles in _CLUSTERS if architecture.clusters else ():
        tile = -(-vectors // tiles)
        if (threads := _whole_warps(tile, kept)) <= _MOST_THREADS:
            yield _Share(kept, threads, threads, tiles, tile, True)
    for block in (_BLOCK, _BLOCK // 2):
        yield _Share(kept, block, block, -(-vectors // (block * kept)), block * kept, False)


def _stage_bytes(items: int, block: int, tensors: int) -> int:
    return tensors * items * block * 16


def _power_of_two(at_least: int) -> int:
    return 1 << (at_least - 1).bit_length()


def _whole_warps(vectors: int, items: int) -> int:
    return -(-vectors // (items * _WARP)) * _WARP
