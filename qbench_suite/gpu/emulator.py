"""Kernels in CUDA C++ on the CPU: the same source, built by the system's compiler, a fiber a thread.

It is for tests, not for speed. Found, as a ``KernelError``, are barriers and shuffles that not all
threads reach, deadlocks, writes beyond shared memory, shared memory of a block of the cluster that has
ended, misaligned vectors, addresses that cannot be accessed, stacks that overflow, failed assertions;
with ``emulating(..., races=True)`` also accesses of memory without a barrier between. Shared memory that
was never written reads as NaN. Small overruns of global memory are not looked for.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from qbench_suite.errors import KernelError, LaunchError
from qbench_suite.gpu.architectures import Architecture, looking_for_races
from qbench_suite.gpu.host_library import HostKernel, Shape, Unit
from qbench_suite.gpu.source_lines import with_lines
from qbench_suite.gpu.texts import INCLUDE, include_folders
from qbench_suite.gpu.toolkit import headers

if TYPE_CHECKING:
    from qbench_suite.gpu.source import CudaFunction, CudaSource

#: What has been built in this process, under the architecture as ``QB_ARCH`` has it, and whether to
#: look for races.
_kernels: dict[tuple[CudaFunction, int, bool], HostKernel] = {}
#: Every access calls host_races.h, and not the sanitizer's own library, which would be linked by default.
_RACES = ("-O1", "-g1", "-fsanitize=thread")
_RACES_LINK = ("-nodefaultlibs", "-Wl,--no-as-needed", "-lstdc++", "-lm", "-lgcc_s", "-lc")


def emulate(function: CudaFunction, architecture: Architecture) -> Callable[..., None]:
    """``run(arguments, grid, block, cluster, shared_bytes, *, cooperative=False)``, to run the kernel.

    It is built the first time, in less than a second, and kept in the cache folder. ``run`` returns
    when all blocks have ended.

    Raises:
        KernelError: there is no C++ compiler, or no CUDA headers, or the kernel does not compile; from
            ``run``: it went wrong, and the message says in which thread of which block.
        LaunchError: from ``run``: the struct of arguments has not the size of the kernel's.
    """

    @functools.cache
    def kernel(races: bool) -> tuple[HostKernel, Callable[..., str]]:
        prebuild([function], architecture)
        built = _kernels[function, _number(architecture), races]
        return built, built.launcher(architecture.shared_bytes, races=races)

    argument_bytes = kernel(looking_for_races())[0].argument_bytes

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
        # A plan that was made before may be called where races are looked for.
        built, launch = kernel(looking_for_races())
        if wrong := launch(
            ctypes.byref(arguments), grid, block, cluster, shared_bytes, cooperative=cooperative
        ):
            raise KernelError(
                "a kernel keeps to its memory and brings all threads to its barriers; "
                f"{function.expression} of {function.source.path.name} does not: "
                f"{with_lines(wrong, built.path)}; correct the kernel or its arguments."
            )

    return run


def prebuild(functions: Iterable[CudaFunction], architecture: Architecture) -> None:
    """Build many instantiations at once, a library a source: quicker than one after another.

    Raises:
        KernelError: as ``emulate``.
    """
    number, races = _number(architecture), looking_for_races()
    by_source: dict[CudaSource, list[CudaFunction]] = {}
    for function in dict.fromkeys(functions):
        if (function, number, races) not in _kernels:
            by_source.setdefault(function.source, []).append(function)
    for source, group in by_source.items():
        library = _unit(source, group, number, races).load()
        for at, function in enumerate(group):
            _kernels[function, number, races] = HostKernel(library, at)


def _number(architecture: Architecture) -> int:
    """The architecture as ``QB_ARCH`` has it."""
    return 100 * architecture.major + 10 * architecture.minor


def _unit(
    source: CudaSource, functions: list[CudaFunction], architecture: int, races: bool
) -> Unit:
    if races and sys.platform != "linux":
        raise KernelError(
            "races are looked for on Linux, where a library that is instrumented needs no runtime of the "
            f"sanitizer; this is {sys.platform}; leave out races=True, or QBENCH_EMULATOR_RACES."
        )
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
    text = "\n".join(lines) + "\n"
    if races:
        return Unit(path.stem, "host_races.h", text, source.digest, folders, _RACES, _RACES_LINK)
    return Unit(path.stem, "host_cuda.h", text, source.digest, folders)
