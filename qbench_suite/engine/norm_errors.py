"""Errors of a norm kernel: outputs in ulps against float64, codes against those of the exact result."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qbench_suite.engine.norm_binades import settled
from qbench_suite.engine.norm_problem import PosedProblem, on_cpu_if_full
from qbench_suite.norms import NormKernel
from qbench_suite.results.norm_rows import NormOutputRow, NormRow

#: Share of codes that may be next to those of the exact result: where it lies between two, a float32
#: result may fall on either side.
MOST_CODES_OFF = 1e-4


def judge_outputs(
    row: NormRow, kernel: NormKernel, posed: PosedProblem, outputs: Sequence[Tensor]
) -> str:
    """Fill the errors of ``row`` and of its outputs; the reason why they are too large, or nothing."""
    outputs = settled(posed, outputs, MOST_CODES_OFF)
    details = [_output_row(kernel, posed, *pair) for pair in enumerate(outputs)]
    for detail in details:
        detail.case = row.case
    row.details += details
    row.nonfinite_count = sum(detail.nonfinite_count or 0 for detail in details)
    row.codes_off = next((d.codes_off for d in details if d.codes_off is not None), None)
    worst = max((d for d in details if d.max_ulp is not None), key=_share_of_tolerance)
    row.worst_output, row.tolerance_ulp = worst.output, worst.tolerance_ulp
    row.max_ulp, row.p999_ulp = worst.max_ulp, worst.p999_ulp
    row.torch_max_ulp = worst.torch_max_ulp
    row.ulp_over_torch = (worst.max_ulp or 0) / max(worst.torch_max_ulp or 0, 1)
    return next(filter(None, (_reason(detail, kernel.name) for detail in details)), "")


def _share_of_tolerance(detail: NormOutputRow) -> float:
    return (detail.max_ulp or 0) / (detail.tolerance_ulp or 1)


def _output_row(
    kernel: NormKernel, posed: PosedProblem, index: int, output: Tensor
) -> NormOutputRow:
    row = NormOutputRow(output=posed.names[index])
    dtype, errors, own = posed.dtype_of(index), posed.errors(index, output), posed.own_errors[index]
    row.dtype = str(dtype or output.dtype).removeprefix("torch.")
    if errors is None or own is None:
        row.codes_off, row.codes_far, row.nonfinite_count = on_cpu_if_full(
            _compare_codes, output, posed.exact[index]
        )
        return row
    row.max_ulp, row.p999_ulp, row.nonfinite_count = (
        errors.max_ulp,
        errors.p999_ulp,
        errors.nonfinite,
    )
    if errors.differing is not None:
        row.codes_off = errors.differing / max(output.numel(), 1)
    row.torch_max_ulp, row.tolerance_ulp = own.max_ulp, kernel.tolerance(row.dtype)
    return row


def _compare_codes(codes: Tensor, exact: Tensor) -> tuple[float, int, int]:
    """Share of codes that differ; those by more than one; those that alone are NaN or Inf."""
    steps = (_ordinals(codes) - _ordinals(exact)).abs()
    wild = codes.float().isfinite() != exact.float().isfinite()
    off = int((steps > 0).sum()) / max(steps.numel(), 1)
    return off, int((steps > 1).sum()), int(wild.sum())


def _ordinals(codes: Tensor) -> Tensor:
    """Codes as integers in the order of their values, both zeros as 0."""
    if not codes.dtype.is_floating_point:
        return codes.int()
    bits = codes.view(torch.uint8).int()
    magnitude = bits & 0x7F
    return torch.where(bits > 0x7F, -magnitude, magnitude)


def _reason(detail: NormOutputRow, kernel: str) -> str:
    if detail.nonfinite_count:
        return (
            f"{detail.output} is NaN or Inf where the float64 result is, and nowhere else; in "
            f"{detail.nonfinite_count} elements that of {kernel} is not so. Mend the kernel."
        )
    if detail.max_ulp and detail.codes_off:
        return (
            f"{detail.output}, of {detail.dtype}, is the same as that of the reference in every element; "
            f"of {kernel} {detail.codes_off:.2g} of the elements differ. Mend the kernel."
        )
    if detail.max_ulp is not None and not detail.max_ulp <= (detail.tolerance_ulp or 0):
        return (
            f"{detail.output} is within {detail.tolerance_ulp:g} ulp of {detail.dtype} of the float64 "
            f"result; {kernel} is off by {detail.max_ulp:.3g} (torch's own by "
            f"{detail.torch_max_ulp:.3g}). Mend the kernel, or declare its tolerance_ulps."
        )
    if detail.codes_far or (detail.codes_off or 0) > MOST_CODES_OFF:
        return (
            f"Codes are those of the float64 result, but for {MOST_CODES_OFF:g} of them that may be the "
            f"next; of {kernel} {detail.codes_off:.2g} differ, {detail.codes_far} of them by more than "
            "one. Mend the kernel."
        )
    return ""
