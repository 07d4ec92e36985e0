"""Timing: timers and clocks, bursts on a device, bandwidth, memory peaks, the allocator."""

from qbench_suite.timing.allocator import allocator, keep_freed_blocks
from qbench_suite.timing.bandwidth import copies, gb_per_s
from qbench_suite.timing.bursts import (
    Burst,
    DeviceClock,
    burst,
    cold_sets,
    host_seconds,
    is_cold,
)
from qbench_suite.timing.cuda import Cuda
from qbench_suite.timing.memory import peak_bytes
from qbench_suite.timing.rounds import Clock, RoundTimer, Samples, Timer, synchronised

__all__ = [
    "Burst",
    "Clock",
    "Cuda",
    "DeviceClock",
    "RoundTimer",
    "Samples",
    "Timer",
    "allocator",
    "burst",
    "cold_sets",
    "copies",
    "gb_per_s",
    "host_seconds",
    "is_cold",
    "keep_freed_blocks",
    "peak_bytes",
    "synchronised",
]
