"""Norms in CUDA C++: LayerNorm, RMSNorm, GroupNorm, BatchNorm and their kin, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

from qbench_norms_cuda.kernels import KERNELS
from qbench_suite import NormKernel, hookimpl


@hookimpl
def qbench_register_norm_kernels(register: Callable[[NormKernel], None]) -> None:
    """Register every kernel of this package."""
    for kernel in KERNELS:
        register(kernel)
