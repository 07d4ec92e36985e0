"""LaunchPlan: a kernel with its launch shape, ready to be called; on a device or in the emulator."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qbench_suite.gpu.architectures import (
    Architecture,
    architecture_of,
    current_device,
    emulated,
    no_device,
)
from qbench_suite.gpu.shape import LaunchShape

if TYPE_CHECKING:
    from qbench_suite.gpu.source import CudaFunction


@dataclass(frozen=True)
class LaunchPlan:
    """A kernel that is ready to be launched: call it with the struct of its arguments."""

    function: CudaFunction
    shape: LaunchShape
    architecture: Architecture
    _launch: Callable[[ctypes.Structure], None] = field(repr=False)

    def __call__(self, arguments: ctypes.Structure) -> None:
        """Launch with ``arguments``, whose bytes the kernel is given; it may still run afterwards.

        Memory that ``arguments`` point to is the caller's to keep, as with any asynchronous launch.

        Raises:
            LaunchError: CUDA refused the launch, or ``arguments`` has not the kernel's size.
        """
        self._launch(arguments)


def plan_launch(
    function: CudaFunction, shape: LaunchShape, kind: str, index: int | None
) -> LaunchPlan:
    """The plan of ``CudaFunction.plan``, for the device ``kind:index``; made once and kept.

    Raises:
        DeviceError: the device is no CUDA device, too old, or the CPU outside of ``emulating``.
        LaunchError: the architecture does not allow such a launch.
        KernelError: the kernel does not compile or load.
    """
    if kind == "cuda":
        return _on_device(function, shape, current_device() if index is None else index)
    architecture = emulated() if kind == "cpu" else None
    if architecture is None:
        raise no_device(kind)
    return _in_emulator(function, shape, architecture)


@functools.lru_cache(maxsize=8192)
def _on_device(function: CudaFunction, shape: LaunchShape, index: int) -> LaunchPlan:
    import torch

    from qbench_suite.gpu.device_launch import DeviceLaunch
    from qbench_suite.gpu.loaded import loaded

    architecture = architecture_of(torch.device("cuda", index))
    shape.check(function, architecture)
    if shape.empty:
        return LaunchPlan(function, shape, architecture, _nothing)
    kernel = loaded(function, architecture, index)
    kernel.allow(shape, architecture)
    return LaunchPlan(function, shape, architecture, DeviceLaunch(kernel, shape, architecture))


def _nothing(arguments: ctypes.Structure) -> None:
    """What an empty grid launches."""


@functools.lru_cache(maxsize=8192)
def _in_emulator(
    function: CudaFunction, shape: LaunchShape, architecture: Architecture
) -> LaunchPlan:
    shape.check(function, architecture)
    if shape.empty:
        return LaunchPlan(function, shape, architecture, _nothing)
    from qbench_suite.gpu.emulator import emulate

    run = emulate(function, architecture)

    def launch(arguments: ctypes.Structure) -> None:
        run(
            arguments,
            shape.grid,
            shape.block,
            shape.cluster,
            shape.shared_bytes,
            cooperative=shape.cooperative,
        )

    return LaunchPlan(function, shape, architecture, launch)
