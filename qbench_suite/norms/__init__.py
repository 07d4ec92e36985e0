"""Norms: what a norm kernel computes and is held to: operations, float64 references, errors in ulps."""

from qbench_suite.norms.declared import cuda_norm_kernel, cuda_unavailable
from qbench_suite.norms.error import UlpErrors, ulp_errors
from qbench_suite.norms.kernel import NormKernel
from qbench_suite.norms.operation import (
    Affine,
    Inputs,
    NormOperation,
    NormProblem,
    Outputs,
    Thunk,
    backward_of,
)
from qbench_suite.norms.operations import NORM_OPERATIONS

__all__ = [
    "NORM_OPERATIONS",
    "Affine",
    "Inputs",
    "NormKernel",
    "NormOperation",
    "NormProblem",
    "Outputs",
    "Thunk",
    "UlpErrors",
    "backward_of",
    "cuda_norm_kernel",
    "cuda_unavailable",
    "ulp_errors",
]
