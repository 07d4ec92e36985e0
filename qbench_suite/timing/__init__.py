"""Timing: what a timer is, memory peaks, and an allocator that keeps its blocks."""

from qbench_suite.timing.allocator import allocator, keep_freed_blocks
from qbench_suite.timing.memory import peak_bytes
from qbench_suite.timing.rounds import RoundTimer, Samples, Timer, synchronised

__all__ = [
    "RoundTimer",
    "Samples",
    "Timer",
    "allocator",
    "keep_freed_blocks",
    "peak_bytes",
    "synchronised",
]
