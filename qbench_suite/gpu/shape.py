"""LaunchShape: how many blocks of how many threads, and what an architecture allows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from qbench_suite.errors import LaunchError

if TYPE_CHECKING:
    from qbench_suite.gpu.architectures import Architecture
    from qbench_suite.gpu.source import CudaFunction

#: How many along x, y and z.
Shape = tuple[int, int, int]

#: What CUDA allows on every architecture.
_MOST_BLOCKS: Shape = (2**31 - 1, 65_535, 65_535)
_MOST_THREADS: Shape = (1024, 1024, 64)


class LaunchShape(NamedTuple):
    """How a kernel is launched, apart from its arguments; fields as in ``CudaFunction.plan``."""

    grid: Shape
    block: Shape
    cluster: int
    shared_bytes: int
    dependent: bool
    cooperative: bool

    @property
    def empty(self) -> bool:
        """Whether there is no block at all: CUDA takes such a launch for an error."""
        return 0 in self.grid

    def check(self, function: CudaFunction, architecture: Architecture) -> None:
        """Raise what CUDA would object to, before it does.

        Raises:
            LaunchError: the architecture does not allow such a launch.
        """
        for rule, remedy in self._broken(architecture):
            raise LaunchError(f"{rule}; {function.expression} was to be launched {self}; {remedy}.")

    def _broken(self, chip: Architecture) -> Iterator[tuple[str, str]]:
        """(rule, remedy) of the first rule that does not hold."""
        if {len(self.grid), len(self.block)} != {3}:
            yield "blocks and threads are counted along x, y and z", "give 1 for an axis not used"
        elif not all(0 <= n <= most for n, most in zip(self.grid, _MOST_BLOCKS, strict=True)):
            yield f"a grid has 0 to {_MOST_BLOCKS} blocks", "count blocks along x, or use fewer"
        elif not self._block_allowed:
            yield "a block has 1 to 1024 threads, up to 64 of them along z", "use as many"
        elif not 0 <= self.shared_bytes <= chip.shared_bytes:
            yield (
                f"a block of {chip} has up to {chip.shared_bytes} bytes of shared memory",
                "use less, or spread the work over a cluster or more blocks",
            )
        elif not 1 <= self.cluster <= chip.max_cluster:
            yield (
                f"a cluster of {chip} has 1 to {chip.max_cluster} blocks",
                "use a smaller one, or a kernel that splits the work over the grid",
            )
        elif self.grid[0] % self.cluster:
            yield "a grid is made of whole clusters along x", "round the grid up"

    @property
    def _block_allowed(self) -> bool:
        each = all(1 <= n <= most for n, most in zip(self.block, _MOST_THREADS, strict=True))
        return each and math.prod(self.block) <= _MOST_THREADS[0]

    def __str__(self) -> str:
        words = [f"as {self.grid} blocks of {self.block} threads"]
        if self.cluster != 1:
            words.append(f"clusters of {self.cluster}")
        if self.shared_bytes:
            words.append(f"{self.shared_bytes} bytes of shared memory")
        return ", ".join(words)
