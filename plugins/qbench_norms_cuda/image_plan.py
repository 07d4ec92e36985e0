"""How images lie in memory, and how their sums are spread over blocks: from the shape alone."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from qbench_suite import Architecture

#: As in csrc/image_norm.cuh, planes.cuh and columns.cuh.
THREADS = 256
PLANE_ITEMS = 4
PAIR_BYTES = 16
COEFFICIENTS_BYTES = 32

#: Threads side by side along channels: 512 bytes of a position are read at once.
_MOST_LANES = 32
#: Positions a thread adds up in float32: enough that a block is worth its start, few enough for accuracy.
_FEWEST_POSITIONS, _MOST_POSITIONS = 8, 64
#: Blocks that keep every multiprocessor busy, of the whole tensor and of one image.
_BLOCKS, _BLOCKS_OF_IMAGE = 1024, 256
#: As in csrc/resident.cuh: threads of a block at most, and bytes of ``ResidentScratch``.
_RESIDENT_THREADS, _RESIDENT_SCRATCH = 1024, 784
#: Shared memory that CUDA keeps of each block, and what a block of a group has at best.
_RESERVED, _SHARED_AT_BEST = 1024, 32 << 10
#: Blocks of a cluster that every device with clusters allows.
_CLUSTERS = (1, 2, 4, 8)
#: Parts of a plane, and parts that one block adds up at once.
_MOST_PARTS, _MOST_AT_ONCE = 1024, 16


class Images(NamedTuple):
    """Shape of images: ``positions`` of each channel contiguous, or channels where ``channels_last``."""

    images: int
    channels: int
    positions: int
    channels_last: bool

    @property
    def over_images(self) -> Images:
        """The same memory as one image, where images follow each other position after position."""
        if not self.channels_last:
            return self
        return Images(1, self.channels, self.images * self.positions, True)


def laid_out(x: Tensor) -> tuple[Tensor, Images]:
    """``x`` (N, C, ...) as it lies, or a contiguous copy where neither axis order is contiguous."""
    images, channels, positions = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    planes = x.is_contiguous()
    if planes and positions > 1:
        return x, Images(images, channels, positions, False)
    if x.movedim(1, -1).is_contiguous():
        return x, Images(images, channels, positions, True)
    return (x if planes else x.contiguous()), Images(images, channels, positions, positions == 1)


def laid_out_as(x: Tensor, y: Tensor) -> Tensor:
    """``y``, of the shape of ``x``, in the memory order that ``x`` has."""
    return y if y.stride() == x.stride() else torch.empty_like(x).copy_(y)


class SumsPlan(NamedTuple):
    """Which block sums what; fields as in ``ImageArgs`` of csrc/image_norm.cuh."""

    unit: int
    units: int
    unit_tiles: int
    parts: int
    rounds: int
    width: int
    lanes: int
    fan: int
    fans: int

    @property
    def tiles(self) -> int:
        """Blocks side by side along the channels of an image."""
        return self.units * self.unit_tiles


@functools.lru_cache(maxsize=1024)
def sums_plan(shape: Images, group: int, over_images: bool, element_bytes: int) -> SumsPlan:
    """The plan of a tensor; that of an image normalized by itself does not depend on their number."""
    make = _columns if shape.channels_last else _planes
    return make(shape, group, over_images, 16 // element_bytes)


def _planes(shape: Images, group: int, over_images: bool, vector: int) -> SumsPlan:
    vectors = -(-shape.positions // vector)
    lanes = min(THREADS, 1 << max(-(-vectors // PLANE_ITEMS) - 1, 0).bit_length())
    tiles = -(-vectors // (lanes * PLANE_ITEMS))
    rounds = -(-tiles // _MOST_PARTS)
    parts = -(-tiles // rounds)
    at_once = THREADS // lanes
    unit = at_once if over_images else max(at_once // group * group, group)
    return SumsPlan(
        unit=unit,
        units=-(-shape.channels // unit),
        unit_tiles=-(-unit // at_once),
        parts=parts,
        rounds=rounds,
        width=-(-vectors // (parts * rounds)),
        lanes=lanes,
        fan=1,
        fans=parts,
    )


def _columns(shape: Images, group: int, over_images: bool, vector: int) -> SumsPlan:
    vectors = -(-shape.channels // vector)
    tiles = -(-vectors // _MOST_LANES)
    lanes = -(-vectors // tiles)
    tiles = -(-vectors // lanes)
    walkers, wide = THREADS // lanes, lanes * vector
    unit = math.lcm(wide, group)
    if unit > shape.channels or unit not in (wide, group):
        unit = tiles * wide
    blocks = max((_BLOCKS if over_images else _BLOCKS_OF_IMAGE) // tiles, 1)
    each = -(-shape.positions // (walkers * blocks * PLANE_ITEMS)) * PLANE_ITEMS
    width = walkers * min(max(each, _FEWEST_POSITIONS), _MOST_POSITIONS)
    parts = -(-shape.positions // width)
    fan = 1 if parts <= _MOST_AT_ONCE else math.isqrt(parts - 1) + 1
    return SumsPlan(
        unit=unit,
        units=-(-shape.channels // unit),
        unit_tiles=unit // wide,
        parts=parts,
        rounds=1,
        width=width,
        lanes=lanes,
        fan=fan,
        fans=-(-parts // fan),
    )


class ResidentPlan(NamedTuple):
    """A group in shared memory: blocks that hold it, vectors of 16 bytes and threads of each."""

    cluster: int
    width: int
    threads: int

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return _RESIDENT_SCRATCH + 16 * self.width


@functools.lru_cache(maxsize=1024)
def resident_plan(
    elements: int, element_bytes: int, architecture: Architecture
) -> ResidentPlan | None:
    """How a group of ``elements`` is held on chip; None where it does not fit.

    The smallest cluster whose blocks have little enough that several share a multiprocessor, and some
    load while others store; else the largest.
    """
    vectors = -(-elements * element_bytes // 16)
    clusters = [n for n in _CLUSTERS if n <= architecture.max_cluster]
    few = (n for n in clusters if 16 * -(-vectors // n) <= _SHARED_AT_BEST)
    cluster = next(few, clusters[-1])
    width = -(-vectors // cluster)
    threads = min(max(32, 1 << (-(-width // PLANE_ITEMS) - 1).bit_length()), _RESIDENT_THREADS)
    plan = ResidentPlan(cluster, width, threads)
    return plan if plan.shared_bytes <= architecture.shared_bytes - _RESERVED else None


def widest(length: int, x: Tensor, other: Tensor | None = None) -> int:
    """Elements of an access, a power of two of at most 16 bytes, that divides ``length`` and suits both.

    ``other`` has the dtype of ``x``; what counts is where they begin.
    """
    size = x.element_size()
    address = x.data_ptr() if other is None else x.data_ptr() | other.data_ptr()
    return math.gcd(16 // size, length, address // size)
