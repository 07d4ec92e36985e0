"""How a function of tensors becomes a kernel of the suite: its operation, or the backward of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from qbench_suite import NormKernel, NormOperation, cuda_unavailable

#: Tensors and numbers by name, as an operation draws them.
Inputs = Mapping[str, Any]
#: Tensors in the order of the operation's outputs.
Outputs = tuple[Tensor, ...]


def entry(operation: NormOperation, run: Callable[[Inputs], Outputs]) -> NormKernel:
    """The kernel that computes ``operation`` by ``run``; a backward by the gradients of ``run``."""

    def prepare(inputs: Inputs) -> Callable[[], Outputs]:
        if operation.gradients_of is not None:
            return operation.gradients_of(inputs, run)
        return functools.partial(run, inputs)

    return NormKernel(
        provider="cuda",
        operation=operation,
        prepare=prepare,
        unavailable=cuda_unavailable,
        description=f"CUDA C++: {operation.description}",
    )
