"""CudaSource, a file of kernels; CudaFunction, one kernel of it, or one instantiation of a template."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qbench_suite.errors import KernelError
from qbench_suite.gpu.launch import LaunchPlan, plan_launch
from qbench_suite.gpu.shape import LaunchShape, Shape
from qbench_suite.gpu.texts import texts

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class CudaSource:
    """A ``.cu`` file; what it includes with quotes is beside it, or among the headers of the suite.

    Nothing is read before a kernel is compiled.
    """

    path: Path

    def function(self, expression: str) -> CudaFunction:
        """The kernel that ``expression`` names: ``scale``, or ``rms_norm<__half, 8>`` of a template."""
        return CudaFunction(self, expression)

    @property
    def digest(self) -> str:
        """SHA-256 of the source and of all that it includes with quotes, in hexadecimal.

        Raises:
            KernelError: the source cannot be read.
        """
        try:
            found = texts(self.path.resolve())
        except (OSError, UnicodeDecodeError) as error:
            raise KernelError(
                f"a kernel is compiled from a readable source; {self.path} is not: {error}; "
                "check the path, and that the package was installed with its data files."
            ) from error
        parts = sorted((path.name, text) for path, text in found.items())
        return hashlib.sha256(
            "\0".join(word for part in parts for word in part).encode()
        ).hexdigest()


@dataclass(frozen=True)
class CudaFunction:
    """A ``__global__`` function whose only parameter is a struct, taken by value.

    ``expression`` is its name in C++, template arguments included.
    """

    source: CudaSource
    expression: str

    def __hash__(self) -> int:
        # A plan is looked up at every call: hashing a path as well would take longer than launching.
        return hash(self.expression)

    def plan(
        self,
        *,
        grid: Shape,
        block: Shape,
        cluster: int = 1,
        shared_bytes: int = 0,
        dependent: bool = False,
        cooperative: bool = False,
        device: torch.device,
    ) -> LaunchPlan:
        """How to launch it on ``device``: everything that does not depend on the arguments, done once.

        ``grid``: blocks along x, y, z, with clusters a multiple of ``cluster`` along x; with a 0 in it,
        nothing is launched. ``block``: threads along x, y, z. ``shared_bytes``: dynamic shared memory
        of a block. ``dependent``: the kernel may start before what is ahead of it in the stream has
        ended, and waits itself (programmatic launch; without effect below sm_90). ``cooperative``: all
        blocks run at once, or none.

        On a CUDA device it is compiled here the first time and launched in torch's current stream; on
        the CPU it runs in the emulator, inside ``emulating``.

        Raises:
            DeviceError: the device is no CUDA device, too old, or the CPU outside of ``emulating``.
            LaunchError: the architecture does not allow such a launch.
            KernelError: the kernel does not compile or load.
        """
        shape = LaunchShape(grid, block, cluster, shared_bytes, dependent, cooperative)
        return plan_launch(self, shape, device.type, device.index)
