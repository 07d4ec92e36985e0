"""The operations that ship: every kernel of one of these names computes the same."""

from __future__ import annotations

from qbench_suite.norms.operation import NormOperation
from qbench_suite.norms.operations import (
    adaptive,
    attention,
    elementwise,
    images,
    quantized,
    rows,
)

#: By name.
NORM_OPERATIONS: dict[str, NormOperation] = {
    operation.name: operation
    for module in (rows, images, adaptive, elementwise, quantized, attention)
    for operation in module.OPERATIONS
}
__all__ = ["NORM_OPERATIONS"]
