"""Norms to compare with: torch's own, eager and compiled, cuDNN, and those of other libraries."""

from __future__ import annotations

from collections.abc import Callable

from qbench_norms_torch import (
    apex,
    compiled,
    cudnn_batch_norm,
    cudnn_frontend,
    eager,
    liger,
    quack,
)
from qbench_suite import NormKernel, hookimpl

KERNELS: tuple[NormKernel, ...] = (
    *eager.KERNELS,
    *compiled.KERNELS,
    *cudnn_batch_norm.KERNELS,
    *cudnn_frontend.KERNELS,
    *liger.KERNELS,
    *quack.KERNELS,
    *apex.KERNELS,
)


@hookimpl
def qbench_register_norm_kernels(register: Callable[[NormKernel], None]) -> None:
    """Register every kernel of this package."""
    for kernel in KERNELS:
        register(kernel)
