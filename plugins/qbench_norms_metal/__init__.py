"""LayerNorm and RMSNorm in the Metal Shading Language, forward, for Apple's GPUs."""

from __future__ import annotations

from collections.abc import Callable

import torch

from qbench_norms_metal.norms import layer_norm, rms_norm
from qbench_suite import NORM_OPERATIONS, NormKernel, hookimpl


def unavailable(device: torch.device) -> str:
    """Why the kernels cannot run on ``device``; empty where they can."""
    return "" if device.type == "mps" else f"it runs on an Apple GPU (mps), not on {device.type}"


KERNELS = tuple(
    NormKernel(
        provider="metal",
        operation=NORM_OPERATIONS[name],
        prepare=prepare,
        unavailable=unavailable,
        description=f"{name} in Metal: rows to 4,096 in registers, float32 sums",
    )
    for name, prepare in (("layer_norm", layer_norm), ("rms_norm", rms_norm))
)


@hookimpl
def qbench_register_norm_kernels(register: Callable[[NormKernel], None]) -> None:
    """Register every kernel of this package."""
    for kernel in KERNELS:
        register(kernel)
