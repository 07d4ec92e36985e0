"""What an evaluation found, as the columns of its rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from qbench_suite.calibration import RoundedWeight
from qbench_suite.compliance import Failure, ModelCompliance
from qbench_suite.convert.assign import Assignment
from qbench_suite.engine.tally import LayerSums, Tally
from qbench_suite.metrics import error_of, paired_difference, range_of, wilson
from qbench_suite.results import ModelLayerRow, ModelRow, ViolationRow
from qbench_suite.results.evaluated_row import EvaluatedRow

if TYPE_CHECKING:
    from qbench_suite.convert.policy import Policy

#: Images left out that a row names.
_NAMED = 3


def describe_policy(row: ModelRow, policy: Policy, assignments: Iterable[Assignment]) -> None:
    """What the policy came to in this model: formats, modes and ranges in use."""
    used = [q for a in assignments for q in a.quantizers.values()]
    row.policy_hash = policy.digest
    row.formats = _joined(q.format.name for q in used)
    row.modes = _joined(q.mode.name for q in used)
    row.range_rules = _joined(q.range_rule.name for q in used if q.range_rule)
    row.scales = "static" if policy.static else "dynamic"


def layer_rows(
    case: str, model: str, policy: str, assignments: Iterable[Assignment]
) -> dict[str, ModelLayerRow]:
    """A row for each site, with what the policy makes of it."""
    return {
        a.site.name: ModelLayerRow(
            case=case,
            model=model,
            policy=policy,
            order=a.site.order,
            layer=a.site.name,
            layer_type=a.site.type,
            quant_type=a.site.twin.__name__ if a.site.twin and a.quantizers else "",
            roles=";".join(f"{role}={quantizer}" for role, quantizer in a.quantizers.items()),
            reason=a.reason,
            multiply_adds=a.site.multiply_adds,
        )
        for a in assignments
    }


def describe_unrounded(
    rows: Mapping[str, ModelLayerRow], assignments: Iterable[Assignment]
) -> None:
    """Which weights a rule was named for that cannot serve them, and why."""
    for assignment in assignments:
        rows[assignment.site.name].rounding = assignment.unrounded


def describe_rounding(
    row: ModelRow,
    rows: Mapping[str, ModelLayerRow],
    assignments: Iterable[Assignment],
    found: Mapping[str, RoundedWeight],
) -> None:
    """How weights were rounded, how long that took, and what it was good for."""
    rules = {a.site.name: a.rounding.name for a in assignments if a.rounding is not None}
    for name, rounded in found.items():
        layer = rows[name]
        layer.rounding = f"nearest: {rounded.kept}" if rounded.kept else rules[name]
        layer.rounding_flipped = rounded.flipped
        layer.rounding_sqnr_before_db = rounded.sqnr_before_db
        layer.rounding_sqnr_db = rounded.sqnr_after_db
    row.rounding = _joined(rules[name] for name in found)
    row.rounding_seconds = sum(rounded.seconds for rounded in found.values())
    row.rounding_gain_db = sum(rounded.gain_db for rounded in found.values()) / len(found)


def describe_kernels(
    row: ModelRow,
    rows: Mapping[str, ModelLayerRow],
    assignments: Iterable[Assignment],
    reasons: Mapping[str, str],
) -> None:
    """Which layers a kernel computes, and why others that it was named for are emulated."""
    for assignment in assignments:
        name = assignment.site.name
        if assignment.kernel is not None and name in reasons:
            rows[name].kernel = "" if reasons[name] else assignment.kernel.name
            rows[name].kernel_reason = reasons[name]
    row.kernel_layers = sum(not reason for reason in reasons.values())


def describe_tally(row: EvaluatedRow, tally: Tally) -> None:
    """Accuracy of both models, how they differ, and what could not be read."""
    accuracy, reference, drift = tally.accuracy, tally.reference, tally.drift
    row.images, row.batch = accuracy.images, tally.batch
    row.skipped_images = len(tally.skipped)
    row.skipped = "; ".join(tally.skipped[:_NAMED])
    row.certainty, row.fp32_certainty = accuracy.mean_certainty, reference.mean_certainty
    row.agreement, row.kl = drift.agreement, drift.kl
    error = error_of(tally.error)
    row.mse, row.sqnr_db, row.cosine = error.mse, error.sqnr_db, error.cosine
    row.nonfinite_count = tally.error.nonfinite
    row.fp32_nonfinite_count = reference.nonfinite
    if accuracy.labelled:
        _describe_hits(row, tally)


def _describe_hits(row: EvaluatedRow, tally: Tally) -> None:
    accuracy, reference = tally.accuracy, tally.reference
    row.top1, row.top5 = accuracy.percent(accuracy.top1), accuracy.percent(accuracy.top5)
    row.fp32_top1 = reference.percent(reference.top1)
    row.fp32_top5 = reference.percent(reference.top5)
    # From counts, so that equal accuracies differ by 0 exactly.
    row.top1_drop = 100 * (reference.top1 - accuracy.top1) / accuracy.labelled
    row.lost, row.gained = tally.drift.lost, tally.drift.gained
    images = accuracy.labelled
    intervals = {
        "top1": wilson(accuracy.top1, images),
        "top5": wilson(accuracy.top5, images),
        "fp32_top1": wilson(reference.top1, images),
        "fp32_top5": wilson(reference.top5, images),
        "top1_drop": paired_difference(row.lost, row.gained, images),
    }
    for name, ends in intervals.items():
        low, high = ends or (None, None)
        setattr(row, f"{name}_low", low)
        setattr(row, f"{name}_high", high)


def describe_layers(rows: Mapping[str, ModelLayerRow], layers: Mapping[str, LayerSums]) -> None:
    """Propagated error of each site, and the range of what it reads."""
    for name, sums in layers.items():
        row, error, spread = rows[name], error_of(sums.error), range_of(sums.input)
        row.mse, row.sqnr_db, row.cosine = error.mse, error.sqnr_db, error.cosine
        row.max_abs_err, row.nonfinite_count = error.max_abs_err, error.nonfinite
        row.input_min, row.input_max = spread.min, spread.max
        row.input_absmax = spread.absmax
        row.input_dynamic_range_db = spread.dynamic_range_db


def describe_compliance(
    row: ModelRow, rows: Mapping[str, ModelLayerRow], found: ModelCompliance
) -> None:
    """The verdict on the model, on each layer, and a row for each value off the grid that was kept."""
    row.violations, row.compliant = found.violation_count, found.compliant
    row.checked_values = found.checked
    row.compliance = _looked_at(found)
    for name, site in found.sites.items():
        rows[name].checked_values, rows[name].violations = site.checked, site.violations
    if found.violations:
        row.violation = _sentence(found.violations[0])
    row.details.extend(_violation_row(row, failure) for failure in found.violations)


def _looked_at(found: ModelCompliance) -> str:
    """What was checked, and how exactly where that is not to the bit."""
    if not found.checked:
        return "nothing checked"
    parts = [f"{role}={count}" for role, count in found.tensors.items()]
    if ulps := found.rules.ulps:
        parts.append(f"tolerance={ulps} ulp{'s' * (ulps > 1)}")
    return ";".join(parts)


def _sentence(failure: Failure) -> str:
    index = ", ".join(map(str, failure.index))
    return (
        f"{failure.layer} {failure.tensor}[{index}] = {failure.value!r} with scale {failure.scale!r}, "
        f"between legal {failure.below!r} and {failure.above!r}"
    )


def _violation_row(row: ModelRow, failure: Failure) -> ViolationRow:
    return ViolationRow(
        case=row.case,
        model=row.model,
        policy=row.policy,
        layer=failure.layer,
        role=str(failure.role),
        tensor=failure.tensor,
        index=",".join(map(str, failure.index)),
        value=repr(failure.value),
        nearest_below="" if failure.below is None else repr(failure.below),
        nearest_above="" if failure.above is None else repr(failure.above),
        scale=repr(failure.scale),
        format=failure.format,
        mode=failure.mode,
        batch_index=failure.batch_index,
    )


def _joined(names: Iterable[str]) -> str:
    return ";".join(sorted(set(names)))
