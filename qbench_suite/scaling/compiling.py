"""Compiles kernels, one code object each, and falls back to eager where there is no compiler."""

from __future__ import annotations

import functools
import shutil
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from qbench_suite.scaling.kernel import KernelKey, Operands, steps

#: From here on a tensor is worth several threads. The compiler decides on them by the lengths it
#: sees first: a kernel compiled for a small tensor would run large ones on one thread for good.
_PARALLEL = 1 << 17

#: Operands of a kernel.
T = TypeVar("T")

_enabled = True
_compiled: dict[tuple[object, ...], Callable[[Operands], None]] = {}
_failures: list[str] = []


def compiler() -> str:
    """The C++ compiler that compiled kernels need on the CPU; empty where there is none."""
    return next((path for name in ("g++", "clang++", "c++") if (path := shutil.which(name))), "")


def compiled_kernels() -> int:
    """Number of kernels compiled in this process."""
    return len(_compiled)


def failures() -> tuple[str, ...]:
    """Why kernels fell back to eager in this process; empty where all compiled."""
    return tuple(_failures)


@contextmanager
def eager() -> Iterator[None]:
    """Within it kernels run uncompiled, with the same bits."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def kernel(key: KernelKey, operands: Operands) -> Callable[[Operands], None]:
    """The kernel for ``key``, compiled for operands like these where that is possible."""
    if not _enabled or operands.x.numel() < 2:
        return steps(key)
    specialisation = (key, *_traits(operands))
    if specialisation not in _compiled:
        serial, device = len(_compiled), operands.x.device
        _compiled[specialisation] = compile_apart(steps(key), serial, device)
    return _compiled[specialisation]


def is_parallel(x: Tensor) -> bool:
    """Whether ``x`` is worth several threads: part of what a kernel is compiled for."""
    return x.numel() >= _PARALLEL


def is_enabled() -> bool:
    """Whether kernels are compiled, which they are not within ``eager()``."""
    return _enabled


def _traits(operands: Operands) -> tuple[object, ...]:
    """What the compiler specialises on; a kernel each keeps clear of its limit of recompilations."""
    x, out = operands.x, operands.out
    return (
        x.dtype,
        out.dtype,
        x.device,
        x.dim(),
        _layout(x),
        _layout(out),
        None if operands.noise is None else _layout(operands.noise),
        operands.scale.numel() == 1,
        is_parallel(x),
        torch.is_inference(x),
        torch.is_inference(out),
        torch.get_num_threads(),
    )


def _layout(x: Tensor) -> tuple[object, ...]:
    """Contiguity, and the two numbers that are constants to the compiler where they are 0 or 1."""
    return x.is_contiguous(), x.dim() > 0 and x.stride(-1) == 1, min(x.storage_offset(), 2)


def compile_apart(
    eager_kernel: Callable[[T], None], serial: int, device: torch.device
) -> Callable[[T], None]:
    """``eager_kernel`` compiled for any lengths, apart from all others of its code and ``serial``.

    It turns into its eager self, once and audibly, where there is no compiler or compiling fails.
    """
    if device.type == "cpu" and not compiler():
        return _fall_back(eager_kernel, "no C++ compiler found; install g++ or clang++")
    # torch.compile counts recompilations by code object, and gives up silently after eight: the
    # kernels of one closure would share a count, so each gets a code object of its own.
    code = eager_kernel.__code__.replace(co_name=f"{eager_kernel.__code__.co_name}_{serial}")
    function = types.FunctionType(
        code, eager_kernel.__globals__, code.co_name, None, eager_kernel.__closure__
    )
    compiled = torch.compile(function, dynamic=True, fullgraph=True, options=_options(device))
    return _Guarded(compiled, eager_kernel)


class _Guarded(Generic[T]):
    """A compiled kernel that turns into its eager twin, once and audibly, if compiling it fails."""

    def __init__(self, compiled: Callable[..., Any], fallback: Callable[[T], None]) -> None:
        self._compiled = compiled
        self._fallback = fallback
        self._run: Callable[..., Any] = self._first_run

    def __call__(self, operands: T) -> None:
        try:
            self._run(operands)
        except Exception as error:
            if self._run is self._fallback:
                raise
            # A mistake of the format's own raises again here, uncompiled and readable.
            self._fallback(operands)
            reason = str(error).strip() or type(error).__name__
            self._run = _fall_back(self._fallback, reason.splitlines()[0])

    def _first_run(self, operands: T) -> None:
        """Compile; lengths that happen to be equal must not become one symbol."""
        from torch.fx.experimental import _config

        with _config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
            self._compiled(operands)
        self._run = self._compiled


def _fall_back(kernel: Callable[[T], None], reason: str) -> Callable[[T], None]:
    if reason not in _failures:
        _failures.append(reason)
        warnings.warn(
            f"A fake-quantize kernel runs uncompiled, with the same bits but slower: {reason}.",
            RuntimeWarning,
            stacklevel=2,
        )
    return kernel


@functools.cache
def _options(device: torch.device) -> dict[str, Any] | None:
    """On CUDA, ask for eager's division and subnormals; without them compiled bits differ."""
    from torch._inductor import config

    wanted = ("eager_numerics.division_rounding", "eager_numerics.disable_ftz")
    if device.type != "cuda":
        return None
    return {name: True for name in wanted if hasattr(config, name)} or None
