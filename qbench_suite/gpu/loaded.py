"""A kernel loaded into a device's context, and the launches of it that CUDA allows."""

from __future__ import annotations

import functools
import math
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qbench_suite.errors import KernelError, LaunchError
from qbench_suite.gpu.cubins import compiled
from qbench_suite.gpu.driver import ask, bindings, inside
from qbench_suite.gpu.launch_config import launch_config

if TYPE_CHECKING:
    from qbench_suite.gpu.architectures import Architecture
    from qbench_suite.gpu.shape import LaunchShape
    from qbench_suite.gpu.source import CudaFunction

#: Bytes of shared memory that a block has without asking, on every architecture.
_SHARED_FOR_ALL = 48 << 10
#: Blocks that a cluster may have without asking.
_PORTABLE_CLUSTER = 8


@dataclass
class LoadedKernel:
    """A kernel in the context of CUDA device ``index``."""

    name: str
    index: int
    #: Never unloaded: a graph may hold the kernel for as long as the process lives.
    library: Any
    handle: Any
    #: Bytes of the struct it takes.
    parameter_bytes: int
    _lock: threading.Lock = field(default_factory=threading.Lock)
    #: Dynamic shared memory that was asked for so far: one figure a kernel, for all its plans.
    _asked_for: int = 0

    def allow(self, shape: LaunchShape, architecture: Architecture) -> None:
        """Have CUDA allow launches in this shape.

        Raises:
            LaunchError: the kernel, or the device, cannot run so.
        """
        with inside(self.index):
            self._check_block(shape, architecture)
            self._ask_for(shape)
            self._check_residence(shape, architecture)

    def _check_block(self, shape: LaunchShape, architecture: Architecture) -> None:
        static = self._attribute("SHARED_SIZE_BYTES")
        self._require(
            static + shape.shared_bytes <= architecture.shared_bytes,
            f"a block of {architecture} has at most {architecture.shared_bytes} bytes of shared "
            f"memory, {static} of which are static in this kernel",
            shape,
            "use less of it",
        )
        most = self._attribute("MAX_THREADS_PER_BLOCK")
        self._require(
            math.prod(shape.block) <= most,
            f"a block of this kernel has at most {most} threads, by its registers or launch bounds",
            shape,
            "use blocks of fewer threads",
        )

    def _ask_for(self, shape: LaunchShape) -> None:
        """Shared memory and clusters beyond what every kernel has; a lower figure would undo a higher."""
        with self._lock:
            static = self._attribute("SHARED_SIZE_BYTES")
            if (
                static + shape.shared_bytes > _SHARED_FOR_ALL
                and shape.shared_bytes > self._asked_for
            ):
                self._set("MAX_DYNAMIC_SHARED_SIZE_BYTES", shape.shared_bytes)
                self._asked_for = shape.shared_bytes
            if shape.cluster > _PORTABLE_CLUSTER:
                self._set("NON_PORTABLE_CLUSTER_SIZE_ALLOWED", 1)

    def _check_residence(self, shape: LaunchShape, architecture: Architecture) -> None:
        """Whether a cluster, or a cooperative grid, fits: all of its blocks run at once."""
        if shape.cluster > 1:
            config = launch_config(shape, architecture)
            clusters = self._ask("cuOccupancyMaxActiveClusters", self.handle, config)
            self._require(
                clusters >= 1,
                "the blocks of a cluster run at once, and the device has no room for that",
                shape,
                "use a smaller cluster, fewer threads or less shared memory",
            )
        if shape.cooperative:
            threads, name = math.prod(shape.block), "cuOccupancyMaxActiveBlocksPerMultiprocessor"
            blocks = self._ask(name, self.handle, threads, shape.shared_bytes)
            blocks *= architecture.multiprocessors
            self._require(
                math.prod(shape.grid) <= blocks,
                f"the blocks of a cooperative grid run at once; of these, at most {blocks} do",
                shape,
                "use fewer blocks",
            )

    def _require(self, holds: bool, requirement: str, shape: LaunchShape, remedy: str) -> None:
        if not holds:
            raise LaunchError(f"{requirement}; {self.name} was to be launched {shape}; {remedy}.")

    def _attribute(self, name: str) -> int:
        return int(self._ask("cuFuncGetAttribute", _attribute_id(name), self.handle))

    def _set(self, name: str, value: int) -> None:
        self._ask("cuFuncSetAttribute", self.handle, _attribute_id(name), value)

    def _ask(self, name: str, *arguments: object) -> Any:
        return ask(f"prepare {self.name}", name, *arguments)


def _attribute_id(name: str) -> Any:
    return getattr(bindings().CUfunction_attribute, f"CU_FUNC_ATTRIBUTE_{name}")


@functools.cache
def loaded(function: CudaFunction, architecture: Architecture, index: int) -> LoadedKernel:
    """The kernel, compiled for ``architecture`` and loaded on CUDA device ``index``, which is of it.

    Raises:
        KernelError: it does not compile or load, or takes anything else than one struct.
    """
    binary = compiled(function, architecture)
    doing = f"load {function.expression}"
    with inside(index):
        library = ask(doing, "cuLibraryLoadData", binary.image, [], [], 0, [], [], 0)
        kernel = ask(doing, "cuLibraryGetKernel", library, binary.name.encode())
        handle = ask(doing, "cuKernelGetFunction", kernel)
        size = _parameter_bytes(function, kernel)
    return LoadedKernel(function.expression, index, library, handle, size)


def _parameter_bytes(function: CudaFunction, kernel: Any) -> int:
    """Bytes of the kernel's only parameter."""
    driver = bindings()
    (first, _, size), (second, *_) = (driver.cuKernelGetParamInfo(kernel, i) for i in (0, 1))
    success = driver.CUresult.CUDA_SUCCESS
    if first != success or second == success:
        raise KernelError(
            f"a kernel takes exactly one parameter; {function.expression} of "
            f"{function.source.path.name} takes {'none' if first != success else 'several'}; put "
            "all of them into one struct, taken by value."
        )
    return int(size)
