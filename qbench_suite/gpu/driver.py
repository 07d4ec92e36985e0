"""CUDA's driver API: every call's status is looked at, and said in CUDA's own words."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from qbench_suite.errors import KernelError


def bindings() -> ModuleType:
    """The module ``cuda.bindings.driver``.

    Raises:
        KernelError: it is not installed.
    """
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise KernelError(
            f"CUDA kernels are launched through cuda.bindings; it cannot be imported: {error}; "
            "`pip install cuda-bindings`, of the CUDA version torch was built for."
        ) from error
    module: ModuleType = driver
    return module


def ask(doing: str, name: str, *arguments: object) -> Any:
    """What the driver's function ``name`` returns beside its status; ``doing`` says what it is for.

    Raises:
        KernelError: the status is an error.
    """
    driver = bindings()
    status, *values = getattr(driver, name)(*arguments)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise KernelError(
            f"CUDA has to {doing}; {name} returned {said(status)}; an error of an earlier kernel "
            "also shows here: run with CUDA_LAUNCH_BLOCKING=1, and check the driver with nvidia-smi."
        )
    return values[0] if len(values) == 1 else tuple(values)


def said(status: Any) -> str:
    """A status by name and in CUDA's words: ``CUDA_ERROR_OUT_OF_MEMORY (out of memory)``."""
    driver = bindings()
    known, text = driver.cuGetErrorString(status)
    words = text.decode() if known == driver.CUresult.CUDA_SUCCESS and text else "no description"
    return f"{getattr(status, 'name', status)} ({words})"


@functools.cache
def context_of(index: int) -> Any:
    """The primary context of CUDA device ``index``: the one torch uses, kept until the process ends."""
    doing = f"find cuda:{index}"
    ask(doing, "cuInit", 0)
    return ask(doing, "cuDevicePrimaryCtxRetain", ask(doing, "cuDeviceGet", index))


@contextlib.contextmanager
def inside(index: int) -> Iterator[None]:
    """Within, the device's context is this thread's, and allocating breaks no graph being captured."""
    doing = f"use cuda:{index}"
    relaxed = bindings().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    ask(doing, "cuCtxPushCurrent", context_of(index))
    try:
        mode = ask(doing, "cuThreadExchangeStreamCaptureMode", relaxed)
        try:
            yield
        finally:
            ask(doing, "cuThreadExchangeStreamCaptureMode", mode)
    finally:
        ask(doing, "cuCtxPopCurrent")
