"""LayerNorm and RMSNorm in Triton, forward and backward, for NVIDIA devices."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from qbench_suite import NORM_OPERATIONS, NormKernel, hookimpl


def unavailable(device: torch.device) -> str:
    """Why the kernels cannot run on ``device``; empty where they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; pip install triton"
    if device.type == "cuda" and torch.version.hip is not None:
        return "its blocks are for warps of 32 threads, which a ROCm device has not"
    return "" if device.type == "cuda" else f"it runs on a CUDA device, not on {device.type}"


def _prepare(inputs: Any) -> Callable[[], Any]:
    return _norms().forward(inputs)  # type: ignore[no-any-return]


def _prepare_backward(inputs: Any) -> Callable[[], Any]:
    return _norms().backward(inputs)  # type: ignore[no-any-return]


def _norms() -> Any:
    # Triton is imported where it is used: that the kernels are listed does not need it.
    return importlib.import_module("qbench_norms_triton.norms")


KERNELS = tuple(
    NormKernel(
        provider="triton",
        operation=NORM_OPERATIONS[f"{residual}{norm}{direction}"],
        prepare=prepare,
        unavailable=unavailable,
        description=f"{norm} in Triton: rows in registers, float32 sums about a pivot",
    )
    for norm in ("layer_norm", "rms_norm")
    for residual in ("", "add_")
    for direction, prepare in (("", _prepare), ("_backward", _prepare_backward))
)


@hookimpl
def qbench_register_norm_kernels(register: Callable[[NormKernel], None]) -> None:
    """Register every kernel of this package."""
    for kernel in KERNELS:
        register(kernel)
