"""Kernels in the Metal Shading Language: on Apple GPUs through torch, or in the emulator on the CPU.

A kernel is a plain function; what would be template arguments are macros, given by name::

    // scale.metal
    #include <metal_stdlib>
    using namespace metal;
    kernel void scale(device const T* x [[buffer(0)]], device T* y [[buffer(1)]],
                      constant float& factor [[buffer(2)]], constant uint& columns [[buffer(3)]],
                      uint row [[threadgroup_position_in_grid]],
                      uint thread_index [[thread_position_in_threadgroup]],
                      uint threads [[threads_per_threadgroup]]) {
        threadgroup float partial[32];          // arrays are declared in the kernel, and are its own
        for (uint i = thread_index; i < columns; i += threads)
            y[row * columns + i] = T(float(x[row * columns + i]) * factor);
    }

    SOURCE = MetalSource(Path(__file__).with_name("scale.metal"))
    plan = SOURCE.function("scale", T="half").plan(
        grid=(rows, 1, 1), threadgroup=(256, 1, 1), device=x.device)
    plan(x, y, 2.0, x.shape[1])                 # tensors and numbers, in the order of the buffers

``grid`` counts threadgroups. A number arrives as torch hands it over: an int as 64 bits, of which a
``constant uint&`` reads the lower half, a float as a ``float``. On an mps tensor the source goes to
``torch.mps.compile_shader``; on a CPU tensor inside ``emulating`` the same file is compiled by the
system's C++ compiler, where a barrier that not all threads reach, a shuffle of a part of a simdgroup, a
write beyond an array in threadgroup memory and so on raise ``KernelError``, and threadgroup memory that
was never written reads as NaN. The emulator has the scalar types, ``half`` and ``bfloat``, vectors of 2
to 4 components by ``.x`` and ``[i]``, the usual arithmetic functions, ``simd_*`` reductions and shuffles,
barriers, and relaxed atomics; of the headers ``metal_stdlib`` alone. What a source includes with quotes
is beside it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench_suite.errors import DeviceError, KernelError, LaunchError
from qbench_suite.gpu.architectures import emulated
from qbench_suite.gpu.host_library import HostKernel, Shape, Unit
from qbench_suite.gpu.metal_text import Constant, for_host, parameters, whole
from qbench_suite.gpu.texts import INCLUDE

if TYPE_CHECKING:
    import torch

    #: What a kernel is given: tensors of one device, and numbers.
    Argument = torch.Tensor | bool | int | float

#: Of Apple's GPUs.
_MOST_THREADS = 1024
_THREADGROUP_BYTES = 32 * 1024


@dataclass(frozen=True)
class MetalSource:
    """A ``.metal`` file, read when a kernel of it is first planned; what it includes is beside it."""

    path: Path

    def function(self, name: str, **constants: Constant) -> MetalFunction:
        """The kernel of that name, compiled with each constant as a macro: ``T="half", WIDTH=4``."""
        return MetalFunction(self, name, tuple(sorted(constants.items())))


@dataclass(frozen=True)
class MetalFunction:
    """A kernel of a Metal source, with the macros it is compiled under."""

    source: MetalSource
    name: str
    constants: tuple[tuple[str, Constant], ...] = ()

    def plan(self, *, grid: Shape, threadgroup: Shape, device: torch.device) -> Callable[..., None]:
        """How to launch it on ``device``: ``plan(*arguments)`` takes tensors and numbers in order.

        ``grid``: threadgroups along x, y, z; with a 0 in it, nothing is launched. ``threadgroup``:
        threads of one along x, y, z. On mps it joins torch's stream; in the emulator it has run when
        the call returns.

        Raises:
            DeviceError: the device is neither mps nor the CPU inside ``emulating``.
            LaunchError: a threadgroup of that shape does not exist.
            KernelError: the source cannot be read or compiled, or has no such kernel; from the call, in
                the emulator: the kernel went wrong.
        """
        if not 1 <= math.prod(threadgroup) <= _MOST_THREADS or min(*threadgroup, *grid) < 0:
            raise LaunchError(
                f"a threadgroup has 1 to {_MOST_THREADS} threads, and no count is below 0; {self.name} "
                f"was to be launched as {grid} threadgroups of {threadgroup}; use a smaller one."
            )
        if 0 in grid:
            return _nothing
        if device.type == "mps":
            return _on_device(self, grid, threadgroup)
        if device.type == "cpu" and emulated() is not None:
            return _in_emulator(self, grid, threadgroup)
        raise DeviceError(
            f"Metal kernels run on mps devices; the tensors are on {device.type!r}; move them there, or "
            "to the CPU inside `with emulating(SM_90):` to run the kernel, slowly, in the emulator."
        )

    @property
    def text(self) -> str:
        """The source behind its macros, with what it includes with quotes.

        Raises:
            KernelError: it cannot be read.
        """
        try:
            return whole(self.source.path, dict(self.constants))
        except (OSError, UnicodeDecodeError) as error:
            raise KernelError(
                f"a kernel is compiled from a readable source; {self.source.path} is not: {error}; "
                "check the path, and that the package was installed with its data files."
            ) from error

    def __str__(self) -> str:
        return f"{self.name} of {self.source.path.name}"


def _nothing(*arguments: Argument) -> None:
    """What an empty grid launches."""


@functools.cache
def _on_device(function: MetalFunction, grid: Shape, threadgroup: Shape) -> Callable[..., None]:
    kernel = _compiled(function)
    threads = [groups * each for groups, each in zip(grid, threadgroup, strict=True)]
    return functools.partial(kernel, threads=threads, group_size=list(threadgroup))


@functools.cache
def _compiled(function: MetalFunction) -> Callable[..., None]:
    """The kernel as torch has compiled it."""
    import torch

    text = function.text
    parameters(text, function.name, function.source.path.name)
    try:
        library: Any = torch.mps.compile_shader(text)
        return getattr(library, function.name)  # type: ignore[no-any-return]
    except (RuntimeError, SyntaxError, AttributeError) as error:
        raise KernelError(
            f"a kernel is valid Metal; {function} does not compile: {error}; correct the source."
        ) from error


@functools.cache
def _in_emulator(function: MetalFunction, grid: Shape, threadgroup: Shape) -> Callable[..., None]:
    launch = _built(function).launcher(_THREADGROUP_BYTES)

    def run(*arguments: Argument) -> None:
        cells = [_cell(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(cells))(*(address for address, _ in cells))
        if wrong := launch(pointers, grid, threadgroup):
            raise KernelError(
                "a kernel keeps to its memory and brings all threads to its barriers; "
                f"{function} does not: {wrong}; correct the kernel or its arguments."
            )

    return _checked(function, run)


def _checked(function: MetalFunction, run: Callable[..., None]) -> Callable[..., None]:
    """``run``, which refuses another number of arguments than the kernel has buffers."""
    found = parameters(function.text, function.name, function.source.path.name)
    buffers = 1 + max((p.buffer for p in found if p.attribute == "buffer"), default=-1)

    def launch(*arguments: Argument) -> None:
        if len(arguments) != buffers:
            raise LaunchError(
                f"a kernel is given one argument a buffer; {function} has {buffers} buffers, and got "
                f"{len(arguments)} arguments; give them in the order of [[buffer(n)]]."
            )
        run(*arguments)

    return launch


@functools.cache
def _built(function: MetalFunction) -> HostKernel:
    file = function.source.path.name
    text = function.text
    given = [
        f"{{::qb_host::Attribute::{parameter.attribute}, {parameter.buffer}}}"
        for parameter in parameters(text, function.name, file)
    ]
    unit = f"{for_host(text)}\nQB_HOST_KERNEL(0, {function.name}, {', '.join(given)})\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return HostKernel(
        Unit(function.source.path.stem, "host_metal.h", unit, digest, (INCLUDE / "metal",)).load(),
        0,
    )


def _cell(argument: Argument) -> tuple[int, object]:
    """Address of what a buffer holds, and what keeps it there."""
    if isinstance(argument, bool):
        cell: Any = ctypes.c_bool(argument)
    elif isinstance(argument, int):
        cell = ctypes.c_int64(argument)
    elif isinstance(argument, float):
        cell = ctypes.c_float(argument)
    else:
        return argument.data_ptr(), argument
    return ctypes.addressof(cell), cell
