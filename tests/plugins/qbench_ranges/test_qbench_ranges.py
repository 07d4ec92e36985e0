"""The shipped range rules, what they share, and the family of percentiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qbench_ranges import RANGE_RULES
from qbench_suite import ModeError, Quantizer, RangeRule, default_manager

Make = Callable[[str], Quantizer]
every_rule = pytest.mark.parametrize("rule", RANGE_RULES, ids=lambda rule: rule.name)


def observed(rule: RangeRule, quantizer: Quantizer, *batches: Tensor) -> tuple[Tensor, Tensor]:
    observer = rule.observer(quantizer)
    for batch in batches:
        observer.observe(batch)
    return observer.range()


def test_rules_are_registered_with_a_description() -> None:
    rules = default_manager().range_rules
    names = ["absmax", "entropy", "moving_average", "mse", "percentile"]
    assert rules.names() == names
    assert rules.families() == ["percentile<P>"]
    assert all(rules.get(name).description for name in names)


def test_only_the_moving_average_needs_several_batches() -> None:
    assert [rule.name for rule in RANGE_RULES if rule.static_only] == ["moving_average"]


@pytest.mark.parametrize(("name", "percent"), [("percentile99.9", 99.9), ("percentile100", 100.0)])
def test_a_percentile_is_made_by_its_name(name: str, percent: float) -> None:
    rule = default_manager().range_rules.get(name)
    assert (rule.name, rule.percent) == (name, percent)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["percentile0", "percentile100.1"])
def test_a_percentile_out_of_range_is_refused(name: str) -> None:
    with pytest.raises(ModeError, match="above 0 and at most 100"):
        default_manager().range_rules.get(name)


@every_rule
def test_a_group_without_a_finite_value_has_no_range(rule: RangeRule, quantizer: Make) -> None:
    groups = torch.tensor([[1.0, -2.0, 3.0], [math.nan, math.inf, -math.inf]])
    for batches in ([groups], [groups, groups]):
        low, high = observed(rule, quantizer("int8-channel"), *batches)
        assert low.dtype is high.dtype is torch.float32
        assert (float(low[1]), float(high[1])) == (0.0, 0.0)
        assert -2 <= float(low[0]) < 0 < float(high[0]) <= 3


@every_rule
@pytest.mark.parametrize("value", [0.0, 3.5, -(2.0**-140), 3.4e38])
def test_a_single_value(rule: RangeRule, quantizer: Make, value: float) -> None:
    x = torch.tensor([[value]])
    for name in ("int8-tensor", "fp8_e4m3-mx32", "uint8-tensor"):
        result = replace(quantizer(name), range_rule=rule).fake_quantize(x)
        assert bool(result.values.isfinite().all())
        low, high = observed(rule, quantizer(name), x, x)
        assert float(low) <= max(value, 0.0)
        assert float(high) >= min(value, 0.0)
        assert max(-float(low), float(high)) <= abs(value)


@every_rule
@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_empty_groups(rule: RangeRule, quantizer: Make, shape: tuple[int, int]) -> None:
    for batches in ([torch.empty(shape)], [torch.empty(shape)] * 2):
        low, high = observed(rule, quantizer("int8-channel"), *batches)
        assert low.tolist() == high.tolist() == [0.0] * shape[0]


@every_rule
def test_nan_and_infinities_are_passed_over(rule: RangeRule, quantizer: Make) -> None:
    clean = torch.randn(3, 64)
    spoilt = torch.cat([clean, torch.tensor([[math.nan, math.inf, -math.inf]]).expand(3, 3)], dim=1)
    for batches in (1, 2):
        a = observed(rule, quantizer("int8-channel"), *[clean] * batches)
        b = observed(rule, quantizer("int8-channel"), *[spoilt] * batches)
        torch.testing.assert_close(a[0], b[0], rtol=1e-6, atol=0)
        torch.testing.assert_close(a[1], b[1], rtol=1e-6, atol=0)


@every_rule
def test_the_batch_is_left_as_it_is(rule: RangeRule, quantizer: Make) -> None:
    x = torch.randn(2, 50)
    x[0, 3] = math.nan
    before = x.clone()
    observed(rule, quantizer("int8-channel"), x, x)
    torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)


@every_rule
def test_a_format_without_a_scale_has_the_whole_range_or_less(
    rule: RangeRule, quantizer: Make
) -> None:
    result = replace(quantizer("bf16-tensor"), range_rule=rule).fake_quantize(torch.randn(4, 4))
    assert result.scale.unique().tolist() == [1.0]


@every_rule
def test_range_before_any_value_is_an_error_or_never_asked(
    rule: RangeRule, quantizer: Make
) -> None:
    with pytest.raises(ModeError, match="has seen none"):
        rule.observer(quantizer("int8-channel")).range()


@every_rule
def test_scales_are_the_same_within_inference_mode(rule: RangeRule, quantizer: Make) -> None:
    batches = [torch.randn(3, 40), torch.randn(3, 30) * 4]
    outside = observed(rule, quantizer("int8-channel"), *batches)
    observer = rule.observer(quantizer("int8-channel"))
    with torch.inference_mode():
        observer.observe(batches[0])
    observer.observe(batches[1])
    assert torch.equal(observer.range().high, outside[1])
