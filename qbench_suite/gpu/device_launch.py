"""One launch on a device: what can be done beforehand is, as a call has microseconds."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qbench_suite.errors import LaunchError
from qbench_suite.gpu.driver import ask, bindings, context_of, said
from qbench_suite.gpu.launch_config import launch_config

if TYPE_CHECKING:
    from qbench_suite.gpu.architectures import Architecture
    from qbench_suite.gpu.loaded import LoadedKernel
    from qbench_suite.gpu.shape import LaunchShape


class DeviceLaunch:
    """Launches one kernel in one shape, on its device and torch's current stream there."""

    def __init__(
        self, kernel: LoadedKernel, shape: LaunchShape, architecture: Architecture
    ) -> None:
        self._kernel = kernel
        self._shape = shape
        self._architecture = architecture
        driver = bindings()
        self._call = driver.cuLaunchKernelEx
        self._success = driver.CUresult.CUDA_SUCCESS
        self._no_context = driver.CUresult.CUDA_ERROR_INVALID_CONTEXT
        self._stream_of, self._current_device = _torch_calls()
        # By stream; never written to again, as another thread may be launching from it.
        self._configs: dict[int, Any] = {}
        self._fitting: set[type[ctypes.Structure]] = set()

    def __call__(self, arguments: ctypes.Structure) -> None:
        """Launch with the bytes of ``arguments``, which CUDA has copied when this returns."""
        if type(arguments) not in self._fitting:
            self._check(arguments)
        kernel = self._kernel
        if self._current_device() != kernel.index:
            self._elsewhere(arguments)
            return
        stream = self._stream_of(kernel.index)
        config = self._configs.get(stream) or self._config(stream)
        addresses = ctypes.c_void_p(ctypes.addressof(arguments))  # a list of one
        status = self._call(config, kernel.handle, ctypes.addressof(addresses), 0)[0]
        if status is not self._success:
            self._failed(status, config, addresses)

    def _check(self, arguments: ctypes.Structure) -> None:
        given, wanted = ctypes.sizeof(arguments), self._kernel.parameter_bytes
        if given != wanted:
            raise LaunchError(
                f"{self._kernel.name} takes a struct of {wanted} bytes; {type(arguments).__name__} "
                f"has {given}; declare the same fields, in the same order."
            )
        self._fitting.add(type(arguments))

    def _elsewhere(self, arguments: ctypes.Structure) -> None:
        """Launch while torch's current device is another one."""
        import torch

        with torch.cuda.device(self._kernel.index):
            self(arguments)

    def _config(self, stream: int) -> Any:
        config = launch_config(self._shape, self._architecture, stream)
        self._configs[stream] = config
        return config

    def _failed(self, status: Any, config: Any, addresses: ctypes.c_void_p) -> None:
        """Try again if only this thread had no context yet; any other failure is an error."""
        kernel = self._kernel
        if status == self._no_context:
            ask(f"launch {kernel.name}", "cuCtxSetCurrent", context_of(kernel.index))
            status = self._call(config, kernel.handle, ctypes.addressof(addresses), 0)[0]
        if status != self._success:
            raise LaunchError(
                f"CUDA accepts the launch of a kernel it has loaded; {kernel.name} on "
                f"cuda:{kernel.index} {self._shape} gives {said(status)}; an error of an earlier "
                "kernel also shows here: run with CUDA_LAUNCH_BLOCKING=1."
            )


def _torch_calls() -> tuple[Callable[[int], int], Callable[[], int]]:
    """What gives a device's current stream, and the current device: torch's own shortcuts, if any."""
    import torch

    stream: Callable[[int], int] | None = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    device: Callable[[], int] | None = getattr(torch._C, "_cuda_getDevice", None)
    return (
        stream or (lambda index: int(torch.cuda.current_stream(index).cuda_stream)),
        device or torch.cuda.current_device,
    )
