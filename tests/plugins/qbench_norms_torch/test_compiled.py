"""What torch's compiler makes of the eager operations."""

from __future__ import annotations

import pytest
import torch

from qbench_norms_torch.compiled import prepare, uncompilable
from qbench_suite import NORM_OPERATIONS, NormProblem


@pytest.mark.skipif(bool(uncompilable(torch.device("cpu"))), reason="torch compiles nothing here")
def test_codes_are_of_values_rounded_as_eager_ones_are() -> None:
    """Left to itself the compiler quantizes float32 values: one code in fifty is another."""
    operation = NORM_OPERATIONS["rms_norm_fp8_e4m3_static"]
    inputs = operation.inputs(NormProblem((64, 768), torch.bfloat16))
    codes = prepare(operation, inputs)()[0].view(torch.uint8)
    expected = operation.eager(inputs)()[0].view(torch.uint8)
    assert (codes != expected).float().mean() <= 1e-4
