"""Outputs of integers and bool: the same as the reference's in every element, or wrong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from qbench_suite import NORM_OPERATIONS, NormKernel, NormOperation
from qbench_suite.engine.norm_errors import judge_outputs
from qbench_suite.engine.norm_problem import NormProblems, checked_outputs
from qbench_suite.results import NormRow

RMS = NORM_OPERATIONS["rms_norm"]
#: What a kernel makes of y and the integers beside it.
Change = Callable[[Tensor], Tensor]


def with_integers(integers: Callable[[Tensor], Tensor]) -> NormOperation:
    """rms_norm, and ``integers`` of x: the same of float64."""
    return dataclasses.replace(
        RMS,
        name="rms_norm_and",
        outputs=("y", "chosen"),
        eager=lambda inputs: lambda: (*RMS.eager(inputs)(), integers(inputs["x"])),
        reference=lambda inputs: (*RMS.reference(inputs), integers(inputs["x"])),
    )


def judged(operation: NormOperation, change: Change) -> tuple[NormRow, str]:
    def prepare(inputs: Any) -> Any:
        run = operation.eager(inputs)

        def changed() -> tuple[Tensor, Tensor]:
            y, chosen = run()
            return y, change(chosen)

        return changed

    kernel = NormKernel(
        provider="x", operation=operation, prepare=prepare, tolerance_ulps={"float32": 1e3}
    )
    posed = NormProblems(torch.device("cpu"), 0).posed(operation, (40, 50), "float32", "weight")
    outputs = checked_outputs(posed, kernel.prepare(posed.copied_inputs())(), kernel.name)
    row = NormRow(case="it")
    return row, judge_outputs(row, kernel, posed, outputs)


def one_off(chosen: Tensor) -> Tensor:
    changed = chosen.clone()
    changed.view(-1)[3] = ~changed.view(-1)[3]
    return changed


@pytest.mark.parametrize(
    "integers",
    [lambda x: x.argmax(-1), lambda x: x > 0, lambda x: (x * 8).to(torch.uint8)],
    ids=["int64", "bool", "uint8"],
)
def test_they_are_compared_exactly(integers: Callable[[Tensor], Tensor]) -> None:
    operation = with_integers(integers)
    row, reason = judged(operation, torch.clone)
    assert reason == ""
    assert row.details[1].max_ulp == row.details[1].codes_off == row.details[1].tolerance_ulp == 0
    assert row.worst_output == "y"

    row, reason = judged(operation, one_off)
    chosen = row.details[1]
    assert (row.worst_output, row.max_ulp, chosen.nonfinite_count) == ("chosen", math.inf, 0)
    assert chosen.codes_off == 1 / integers(torch.ones(40, 50)).numel()
    for word in ("chosen", "same", "rms_norm_and:x", f"{chosen.codes_off:.2g} of the elements"):
        assert word in reason
