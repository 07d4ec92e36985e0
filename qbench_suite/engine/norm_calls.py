"""Calls of a norm kernel: the first is judged, and those after it, timed ones too, are held to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qbench_suite.engine.norm_errors import judge_outputs
from qbench_suite.engine.norm_problem import (
    PosedProblem,
    checked_outputs,
    require_unchanged,
    same_bits,
)
from qbench_suite.norms import NormKernel, Thunk
from qbench_suite.results.norm_rows import NormRow

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Of calls whose bits are not the first's, so many are judged: there may be a thousand sets.
_JUDGED = 8


class NormCalls:
    """What the calls of one kernel on one problem give; ``reason`` says why one of them is wrong."""

    def __init__(self, kernel: NormKernel, posed: PosedProblem, row: NormRow) -> None:
        self.reason = ""
        self._kernel, self._posed, self._row = kernel, posed, row
        self._first: tuple[Tensor, ...] = ()
        self._left = _JUDGED
        # Outputs that are inputs too, as running statistics are, go on from call to call.
        self._state = [name in posed.inputs for name in posed.names]

    def checked(self) -> tuple[dict[str, Any], Thunk]:
        """Inputs and a call prepared for them, whose first and second outputs are judged into the row."""
        inputs = self._posed.copied_inputs()
        thunk = self._kernel.prepare(inputs)
        outputs = self._outputs(inputs, thunk())
        self._row.bytes_moved = self._posed.operation.bytes_moved(self._posed.inputs, outputs)
        self._first = tuple(output.clone() for output in outputs)
        self.reason = judge_outputs(self._row, self._kernel, self._posed, outputs)
        self._row.deterministic = True
        self.hold([(inputs, thunk())])
        if any(self._state):
            again = self._posed.copied_inputs()
            fresh = self._outputs(again, self._kernel.prepare(again)())
            self._row.deterministic &= all(map(same_bits, self._first, fresh))
        return inputs, thunk

    def hold(self, calls: Iterable[tuple[dict[str, Any], Any]]) -> None:
        """Judge what later calls gave, each with its inputs, where it differs from the first."""
        for inputs, given in calls:
            outputs = self._outputs(inputs, given)
            stated = zip(self._state, self._first, outputs, strict=True)
            held = [first if state and _alike(first, o) else o for state, first, o in stated]
            if all(map(same_bits, self._first, held)):
                continue
            self._row.deterministic = False
            if self._left and not self.reason:
                self._left -= 1
                apart = NormRow(case=self._row.case)
                if wrong := judge_outputs(apart, self._kernel, self._posed, held):
                    self.reason = f"In a later call of what prepare returned: {wrong}"

    def _outputs(self, inputs: dict[str, Any], given: Any) -> tuple[Tensor, ...]:
        outputs = checked_outputs(self._posed, given, self._kernel.name)
        require_unchanged(self._posed, inputs, self._kernel.name)
        return outputs


def _alike(first: Tensor, later: Tensor) -> bool:
    """Whether statistics that may have gone on are finite where the first were."""
    return torch.equal(first.isfinite(), later.isfinite())
