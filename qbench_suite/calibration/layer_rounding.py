"""Rounding the weight of one layer by a rule, and what that was good for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qbench_suite.calibration.lockstep import grouped
from qbench_suite.calibration.moments import SeenInputs
from qbench_suite.calibration.rounding import RoundingProblem, RoundingRule, dequantized
from qbench_suite.errors import ConversionError
from qbench_suite.formats import IntFormat
from qbench_suite.layers import LinearMap
from qbench_suite.scaling.kernel import to_dtype


@dataclass(frozen=True)
class RoundedWeight:
    """The codes that a rule chose for one weight, and their effect."""

    #: (out, in) int32, those of nearest rounding where that is kept.
    codes: Tensor
    #: SQNR of the layer's output on images held back, against the float model: nearest, and the rule's.
    sqnr_before_db: float
    sqnr_after_db: float
    #: Share of the weights whose code is not the nearest one.
    flipped: float
    #: Wall time of the rule.
    seconds: float
    #: Why nearest rounding is kept; empty where it is not.
    kept: str = ""

    @property
    def gain_db(self) -> float:
        """What the rule gained; 0 where both are without error."""
        gain = self.sqnr_after_db - self.sqnr_before_db
        return 0.0 if math.isnan(gain) else gain


@torch.no_grad()
def round_layer(
    layer: LinearMap,
    rule: RoundingRule,
    seen: SeenInputs,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> RoundedWeight:
    """The weight of ``layer`` rounded by ``rule``; the layer stays as it is, see ``apply``.

    Nearest rounding is kept where calibration showed the layer nothing finite, and where on the images
    held back the rule's error is larger. Raises ``ConversionError`` for a weight that is not finite,
    and for a rule that gives codes which are none.
    """
    problem = problem_of(layer, seen, seed, progress)
    nearest = problem.nearest()
    if not seen.fit.patches:
        nan = math.nan
        return RoundedWeight(_rows(nearest), nan, nan, 0.0, 0.0, "calibration never reached it")
    begin = time.perf_counter()
    codes = rule.round(problem)
    seconds = time.perf_counter() - begin
    _check(codes, problem, rule)
    weight, judge = problem.weight, seen.judge
    before, after = (judge.error(weight, problem.values(c)) for c in (nearest, codes))
    kept = "" if after <= before else f"{rule.name} is worse on images held back"
    sqnr_before = judge.sqnr_db(before)
    if kept:
        return RoundedWeight(_rows(nearest), sqnr_before, sqnr_before, 0.0, seconds, kept)
    flipped = float((codes != nearest).float().mean())
    return RoundedWeight(_rows(codes), sqnr_before, judge.sqnr_db(after), flipped, seconds)


def problem_of(
    layer: LinearMap,
    seen: SeenInputs,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> RoundingProblem:
    """What there is to decide about the weight of ``layer``, given what it reads."""
    record = layer.weight_record()
    format, result = record.result.format, record.result
    assert isinstance(format, IntFormat)
    zero = result.spread_zero_point()
    inputs, float_inputs = seen.sample()
    groups = layer.groups
    bias = layer.bias
    return RoundingProblem(
        weight=grouped(record.source.detach().float(), groups),
        scale=grouped(result.spread_scale(), groups),
        zero_point=None if zero is None else grouped(zero, groups),
        low=format.low,
        high=format.high,
        moments=seen.fit.moments,
        shift=seen.fit.shift,
        inputs=inputs,
        float_inputs=float_inputs,
        bias=None if bias is None else bias.view(groups, -1),
        seed=seed,
        progress=progress,
    )


def apply(layer: LinearMap, codes: Tensor) -> None:
    """Compute with the weight of these codes (out, in): exactly ``(code − zero_point) · scale``."""
    result = layer.weight_record().result
    codes = codes.to(result.values.device, torch.float32)
    values = dequantized(codes, result.spread_scale(), result.spread_zero_point())
    layer.set_weight(to_dtype(values, result.values.dtype))


def _rows(codes: Tensor) -> Tensor:
    return codes.flatten(0, 1).to("cpu", torch.int32)


def _check(codes: Tensor, problem: RoundingProblem, rule: RoundingRule) -> None:
    legal = (codes == codes.round()) & (codes >= problem.low) & (codes <= problem.high)
    if codes.shape != problem.weight.shape or not bool(legal.all()):
        raise ConversionError(
            f"A rounding rule gives an integer in {problem.low} … {problem.high} for every weight; "
            f"{rule.name} gave {int((~legal).sum())} others, shape {tuple(codes.shape)} for "
            f"{tuple(problem.weight.shape)}. Mend the plugin that provides it."
        )
