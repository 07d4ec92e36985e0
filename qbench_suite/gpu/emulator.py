"""Kernels in CUDA C++ on the CPU: the same source, built by the system's compiler, a fiber a thread.

It is for tests, not for speed. Found, as a ``KernelError``, are barriers and shuffles that not all
threads reach, deadlocks, writes beyond shared memory, shared memory of a block of the cluster that has
ended, misaligned vectors, addresses that cannot be accessed, stacks that overflow, failed assertions.
Shared memory that was never written reads as NaN. Races as such are not looked for, nor small overruns
of global memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from qbench_suite.errors import KernelError, LaunchError
from qbench_suite.gpu.architectures import Architecture
from qbench_suite.gpu.host_library import HostKernel, Shape, Unit
from qbench_suite.gpu.texts import INCLUDE, include_folders
from qbench_suite.gpu.toolkit import headers

if TYPE_CHECKING:
    from qbench_suite.gpu.source import CudaFunction, CudaSource

#: What has been built in this process, under the architecture as ``QB_ARCH`` has it.
_kernels: dict[tuple[CudaFunction, int], HostKernel] = {}


def emulate(function: CudaFunction, architecture: Architecture) -> Callable[..., None]:
    """``run(arguments, grid, block, cluster, shared_bytes, *, cooperative=False)``, to run the kernel.

    It is built the first time, in less than a second, and kept in the cache folder. ``run`` returns
    when all blocks have ended.

    Raises:
        KernelError: there is no C++ compiler, or no CUDA headers, or the kernel does not compile; from
            ``run``: it went wrong, and the message says in which thread of which block.
        LaunchError: from ``run``: the struct of arguments has not the size of the kernel's.
    """
    prebuild([function], architecture)
    kernel = _kernels[function, _number(architecture)]
    launch = kernel.launcher(architecture.shared_bytes)
    argument_bytes = kernel.argument_bytes

    def run(
        arguments: ctypes.Structure,
        grid: Shape,
        block: Shape,
        cluster: int,
        shared_bytes: int,
        *,
        cooperative: bool = False,
    ) -> None:
        if ctypes.sizeof(arguments) != argument_bytes:
            raise LaunchError(
                f"a kernel is given the struct it takes; {function.expression} takes "
                f"{argument_bytes} bytes, {type(arguments).__name__} has {ctypes.sizeof(arguments)}; "
                "declare the same fields in the same order."
            )
        if wrong := launch(
            ctypes.byref(arguments), grid, block, cluster, shared_bytes, cooperative=cooperative
        ):
            raise KernelError(
                "a kernel keeps to its memory and brings all threads to its barriers; "
                f"{function.expression} of {function.source.path.name} does not: {wrong}; "
                "correct the kernel or its arguments."
            )

    return run


def prebuild(functions: Iterable[CudaFunction], architecture: Architecture) -> None:
    """Build many instantiations at once, a library a source: quicker than one after another.

    Raises:
        KernelError: as ``emulate``.
    """
    number = _number(architecture)
    by_source: dict[CudaSource, list[CudaFunction]] = {}
    for function in dict.fromkeys(functions):
        if (function, number) not in _kernels:
            by_source.setdefault(function.source, []).append(function)
    for source, group in by_source.items():
        library = _unit(source, group, number).load()
        for at, function in enumerate(group):
            _kernels[function, number] = HostKernel(library, at)


def _number(architecture: Architecture) -> int:
    """The architecture as ``QB_ARCH`` has it."""
    return 100 * architecture.major + 10 * architecture.minor


def _unit(source: CudaSource, functions: list[CudaFunction], architecture: int) -> Unit:
    found = headers()
    if found is None:
        raise KernelError(
            "the emulator compiles kernels with CUDA's headers; none were found; "
            "pip install nvidia-cuda-runtime, or set CUDA_HOME."
        )
    path = source.path.resolve()
    lines = [f"#define QB_ARCH {architecture}", f'#include "{path}"']
    lines += [f"QB_HOST_KERNEL({at}, {one.expression})" for at, one in enumerate(functions)]
    folders = (INCLUDE / "host", *include_folders(path), found)
    return Unit(path.stem, "host_cuda.h", "\n".join(lines) + "\n", source.digest, folders)
