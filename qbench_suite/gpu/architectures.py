"""What an NVIDIA architecture offers a kernel, and which one a device is, or stands for."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench_suite.errors import DeviceError

if TYPE_CHECKING:
    import torch

#: The oldest architecture that kernels are compiled for, as (major, minor).
OLDEST = (7, 5)


@dataclass(frozen=True)
class Architecture:
    """What a kernel may count on: ``major.minor`` is CUDA's compute capability.

    ``shared_bytes``: bytes of shared memory that one block may have at most. ``l2_bytes``: bytes of
    the second-level cache.
    """

    major: int
    minor: int
    multiprocessors: int
    shared_bytes: int
    l2_bytes: int

    @property
    def target(self) -> str:
        """Name for a compiler, with the instructions of this architecture alone: ``sm_90a``."""
        return f"sm_{self.major}{self.minor}{'a' if self.major >= 9 else ''}"

    @property
    def clusters(self) -> bool:
        """Whether blocks may form clusters that share memory."""
        return self.major >= 9

    @property
    def max_cluster(self) -> int:
        """Blocks of a cluster at most: above 8 only where the chip has room for it, 1 without clusters."""
        if not self.clusters:
            return 1
        return 16 if self.major in (9, 10) else 8

    def __str__(self) -> str:
        return f"sm_{self.major}{self.minor}"


#: Few multiprocessors, as these stand for devices in the emulator: persistent grids stay small.
SM_75 = Architecture(7, 5, 4, 65_536, 4 << 20)
SM_80 = Architecture(8, 0, 4, 166_912, 40 << 20)
SM_89 = Architecture(8, 9, 4, 101_376, 72 << 20)
SM_90 = Architecture(9, 0, 4, 232_448, 50 << 20)
SM_100 = Architecture(10, 0, 4, 232_448, 126 << 20)
SM_120 = Architecture(12, 0, 4, 101_376, 96 << 20)

_emulated: ContextVar[Architecture | None] = ContextVar("emulated", default=None)
_races: ContextVar[bool] = ContextVar("races", default=False)


@contextlib.contextmanager
def emulating(architecture: Architecture, *, races: bool | None = None) -> Iterator[Architecture]:
    """Kernels on CPU tensors run in the emulator, as if on a device of ``architecture``.

    With ``races``, a CUDA kernel raises ``KernelError`` where two threads use the same bytes of shared
    memory (of one block: of global memory as well), at least one of them writes, and no barrier lies
    between; on Linux alone, and slower. None: whether the environment variable QBENCH_EMULATOR_RACES is
    1. Holds for this thread (and asynchronous task) alone; the innermost one counts.
    """
    if races is None:
        races = os.environ.get("QBENCH_EMULATOR_RACES") == "1"
    token, look = _emulated.set(architecture), _races.set(races)
    try:
        yield architecture
    finally:
        _races.reset(look)
        _emulated.reset(token)


def emulated() -> Architecture | None:
    """The architecture of the innermost ``emulating`` block; None outside of one."""
    return _emulated.get()


def looking_for_races() -> bool:
    """Whether the innermost ``emulating`` block looks for races."""
    return _races.get()


def architecture_of(device: torch.device) -> Architecture:
    """What the device offers a kernel; of the CPU, what the emulated device does.

    Raises:
        DeviceError: a device no kernel runs on: no CUDA device, too old, or the CPU outside of
            ``emulating``.
    """
    if device.type == "cuda":
        return _properties(current_device() if device.index is None else device.index)
    found = emulated() if device.type == "cpu" else None
    if found is None:
        raise no_device(device.type)
    return found


def no_device(kind: str) -> DeviceError:
    """The error for tensors on a kind of device on which no kernel runs."""
    remedy = "move the tensors to a CUDA device"
    if kind == "cpu":
        remedy += ", or wrap the call in `with emulating(SM_90):` to run it, slowly, on the CPU"
    return DeviceError(f"CUDA kernels run on CUDA devices; the tensors are on {kind!r}; {remedy}.")


def current_device() -> int:
    """Torch's current CUDA device."""
    import torch

    return torch.cuda.current_device()


@functools.cache
def _properties(index: int) -> Architecture:
    import torch

    if torch.version.hip:
        raise DeviceError(
            f"CUDA kernels run on NVIDIA's GPUs; this torch is built for ROCm {torch.version.hip}; "
            "use a CUDA build of torch."
        )
    found = torch.cuda.get_device_properties(index)
    if (found.major, found.minor) < OLDEST:
        raise DeviceError(
            f"CUDA kernels need an architecture of at least sm_{OLDEST[0]}{OLDEST[1]}; cuda:{index} "
            f"({found.name}) is sm_{found.major}{found.minor}; use a newer GPU."
        )
    return Architecture(
        found.major,
        found.minor,
        found.multi_processor_count,
        found.shared_memory_per_block_optin,
        found.L2_cache_size,
    )
