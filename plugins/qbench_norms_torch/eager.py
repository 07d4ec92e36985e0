"""Torch's own eager operations: what every other kernel is compared with."""

from __future__ import annotations

from qbench_norms_torch.entries import TOLERANCE
from qbench_suite import NORM_OPERATIONS, NormKernel, NormOperation


def tolerance(operation: NormOperation) -> dict[str, float]:
    """Largest errors in ulps: of attention those of the operation, which are wider."""
    wide = TOLERANCE[operation.direction]
    return {dtype: max(wide[dtype], own) for dtype, own in operation.tolerance_ulps.items()}


KERNELS = tuple(
    NormKernel(
        provider="torch",
        operation=operation,
        prepare=operation.eager,
        tolerance_ulps=tolerance(operation),
        description="torch's own, eager",
    )
    for operation in NORM_OPERATIONS.values()
)
