"""Range rules in a quantizer: scales of the absolute maximum are the kernel's, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qbench_formats import FORMATS
from qbench_modes import MODES
from qbench_suite import Axes, ModeError, Observer, Quantizer, Range, RangeRule
from qbench_suite.scaling import fold_groups
from qbench_suite.scaling.pieces import scale_shape

SameBits = Callable[[Tensor, Tensor], bool]
QUANTIZERS = [
    Quantizer(format, mode)
    for format, mode in itertools.product(FORMATS, MODES)
    if not mode.misfit(format)
]
INT8 = next(q for q in QUANTIZERS if str(q) == "int8-channel")
FLAVOURS = ["normal", "outliers", "zeros", "nothing", "subnormal", "small", "huge", "special"]


def extremes(groups: Tensor) -> Range:
    """Of the finite values of each row, by a loop."""
    low, high = [], []
    for row in groups:
        finite = row[row.isfinite()]
        low.append(finite.min() if finite.numel() else torch.tensor(0.0))
        high.append(finite.max() if finite.numel() else torch.tensor(0.0))
    return Range(torch.stack(low), torch.stack(high))


@dataclass(frozen=True, kw_only=True)
class Whole(RangeRule):
    """The whole range, through an observer."""

    name: str = "whole"

    def observer(self, quantizer: Quantizer) -> Observer:
        return _Whole()


class _Whole(Observer):
    def observe(self, groups: Tensor) -> None:
        self.groups = groups

    def range(self) -> Range:
        return extremes(self.groups)


@dataclass(frozen=True, kw_only=True)
class Half(RangeRule):
    """Half of the absolute maximum, without an observer of its own."""

    name: str = "half"

    def observer(self, quantizer: Quantizer) -> Observer:
        raise AssertionError("one batch needs no observer")

    def range_of(self, groups: Tensor, quantizer: Quantizer) -> Range:
        low, high = extremes(groups)
        return Range(low / 2, high / 2)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
@settings(max_examples=12, deadline=None)
@given(
    shape=st.lists(st.integers(1, 40), min_size=0, max_size=3).map(tuple),
    flavour=st.sampled_from(FLAVOURS),
    seed=st.integers(0, 10**6),
    weight=st.booleans(),
)
def test_scales_of_the_absolute_maximum_are_the_dynamic_ones(
    quantizer: Quantizer,
    shape: tuple[int, ...],
    flavour: str,
    seed: int,
    weight: bool,
    hard: Callable[..., Tensor],
    same_bits: SameBits,
) -> None:
    x = hard(shape, flavour, seed)
    axes = Axes.weight(len(shape)) if weight else Axes.features(len(shape))
    dynamic = quantizer.fake_quantize(x, axes)
    group = quantizer.group_shape(shape, axes)
    scales = quantizer.scales_of(extremes(fold_groups(x, group)), scale_shape(shape, group))
    assert same_bits(scales.scale, dynamic.scale)
    assert (scales.zero_point is None) == (dynamic.zero_point is None)
    if scales.zero_point is not None and dynamic.zero_point is not None:
        assert torch.equal(scales.zero_point, dynamic.zero_point)
    ranged = replace(quantizer, range_rule=Whole()).fake_quantize(x, axes)
    assert same_bits(ranged.values, dynamic.values)
    assert same_bits(ranged.scale, dynamic.scale)


def test_name_says_the_rule() -> None:
    assert str(replace(INT8, range_rule=Half())) == "int8-channel/half"
    assert str(INT8) == "int8-channel"


def test_rule_gives_the_scale_and_what_lies_beyond_saturates() -> None:
    x = torch.tensor([[1.0, -8.0], [4.0, 2.0]])
    result = replace(INT8, range_rule=Half()).fake_quantize(x)
    assert torch.equal(result.scale, torch.tensor([[2.0, 4.0]]) / 127)
    assert result.values.abs().amax(0).tolist() == pytest.approx([2.0, 4.0])


def test_codes_follow_the_rule_too() -> None:
    x = torch.tensor([[1.0, -8.0], [4.0, 2.0]])
    quantizer = replace(INT8, range_rule=Half())
    assert torch.equal(quantizer.quantize(x).dequantize(), quantizer.fake_quantize(x).values)


def test_static_scales_win_over_the_rule() -> None:
    x = torch.tensor([[1.0, -8.0], [4.0, 2.0]])
    static = INT8.scales_of(Range(torch.tensor([-127.0, -127.0]), torch.tensor([0.0, 1.0])), (1, 2))
    result = replace(INT8, range_rule=Half()).fake_quantize(x, scales=static)
    assert result.values.tolist() == x.tolist()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
def test_an_empty_tensor_is_not_observed(shape: tuple[int, ...]) -> None:
    result = replace(INT8, range_rule=Half()).fake_quantize(torch.empty(shape))
    assert result.values.shape == shape


def test_a_format_without_a_scale_is_not_observed() -> None:
    bf16 = next(q for q in QUANTIZERS if q.format.name == "bf16")
    result = replace(bf16, range_rule=Half()).fake_quantize(torch.tensor([1.0, 3.0]))
    assert result.scale.tolist() == [1.0]


def test_a_range_of_another_number_of_groups_is_refused() -> None:
    with pytest.raises(ModeError, match="one element a group; got 2 and 2 for 3 groups"):
        INT8.scales_of(Range(torch.zeros(2), torch.ones(2)), (1, 3))


def test_no_groups_have_no_scales() -> None:
    for quantizer in QUANTIZERS:
        assert quantizer.scales_of(Range(torch.empty(0), torch.empty(0)), (0, 4)).scale.numel() == 0
