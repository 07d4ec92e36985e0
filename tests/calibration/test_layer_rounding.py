"""A layer's weight rounded by a rule: on the grid to the bit, judged by images held back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench_formats import FORMATS
from qbench_layers.convolution import QuantConv1d, QuantConv2d
from qbench_layers.linear import QuantLinear
from qbench_modes import MODES
from qbench_suite import (
    GPTQ,
    AdaRound,
    IntFormat,
    LinearMap,
    Mode,
    PerChunk,
    Quantizer,
    Role,
    RoundingRule,
)
from qbench_suite.calibration import RoundedWeight, apply, round_layer
from qbench_suite.calibration.moments import SeenInputs
from qbench_suite.compliance.live import live_weights
from qbench_suite.errors import ConversionError
from qbench_suite.scaling.compiling import eager

FORMAT = {format.name: format for format in FORMATS} | {
    "uint4": IntFormat(name="uint4", bits=4, low=0, high=15, affine=True)
}
MODE = {mode.name: mode for mode in MODES} | {
    "chunk4": Mode(name="chunk4", granularity=PerChunk(4))
}
GPTQ_RULE = GPTQ(name="gptq")
RULES = [GPTQ_RULE, AdaRound(name="adaround", steps=300)]


@pytest.fixture(autouse=True)
def _eager() -> Iterator[None]:
    torch.manual_seed(0)
    with eager(), torch.no_grad():
        yield


def layer_of(kind: str, format: str = "int4", mode: str = "channel") -> tuple[LinearMap, Tensor]:
    """A layer and what it reads."""
    quantizers = {Role.WEIGHT: Quantizer(FORMAT[format], MODE[mode])}
    x = torch.randn(64, 8, 6, 6).cumsum(dim=1).cumsum(dim=2) + 0.3
    match kind:
        case "linear":
            return QuantLinear.from_float(nn.Linear(8, 12), quantizers), x.movedim(1, -1)
        case "sequence":
            return QuantConv1d.from_float(nn.Conv1d(8, 12, 3, dilation=2), quantizers), x[..., 0]
    groups = {"conv": 1, "grouped": 4, "depthwise": 8}[kind]
    conv = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=groups)
    return QuantConv2d.from_float(conv, quantizers), x


def seen_of(layer: LinearMap, x: Tensor) -> SeenInputs:
    """Seen: the first half to learn from, the second to judge by."""
    record = layer.weight_record()
    weight = record.source.view(layer.groups, -1, record.source.shape[1])
    seen = SeenInputs.empty(layer.groups, weight.shape[2], weight.device)
    half = len(x) // 2
    for sums, part in ((seen.fit, x[:half]), (seen.held, x[half:])):
        sums.add(layer.patches(part), layer.patches(part), weight)
    return seen


@pytest.mark.parametrize("rule", RULES, ids=["gptq", "adaround"])
@pytest.mark.parametrize("kind", ["linear", "sequence", "conv", "grouped", "depthwise"])
def test_the_output_errs_as_much_less_as_is_said(kind: str, rule: RoundingRule) -> None:
    layer, x = layer_of(kind)
    held = x[len(x) // 2 :]
    nearest = layer(held)  # type: ignore[operator]
    exact = _exact(layer, held)
    rounded = round_layer(layer, rule, seen_of(layer, x))
    apply(layer, rounded.codes)
    power = (exact - _bias(layer, exact)).square().sum()
    for found, said in ((nearest, rounded.sqnr_before_db), (layer(held), rounded.sqnr_after_db)):  # type: ignore[operator]
        sqnr = 10 * math.log10(float(power / (found - exact).square().sum()))
        assert said == pytest.approx(sqnr, abs=1e-2)
    assert rounded.gain_db > 1.0
    assert 0.02 < rounded.flipped < 0.6
    assert not rounded.kept


def _exact(layer: Any, x: Tensor) -> Tensor:
    """What the float twin gives."""
    before = layer.weight.clone()
    layer.lay_rows(layer.weight_record().source, layer.weight)
    y: Tensor = layer(x)
    layer.weight.copy_(before)
    return y


def _bias(layer: Any, y: Tensor) -> Tensor:
    axis = -1 if isinstance(layer, QuantLinear) else 1
    shape = [-1 if i == axis % y.dim() else 1 for i in range(y.dim())]
    return layer.bias.view(shape)  # type: ignore[no-any-return]


@pytest.mark.parametrize("format", ["int8", "int4", "int3", "uint8", "uint4"])
@pytest.mark.parametrize("mode", ["tensor", "channel", "chunk4"])
@pytest.mark.parametrize("kind", ["linear", "grouped"])
def test_every_weight_is_a_code_times_its_scale(kind: str, format: str, mode: str) -> None:
    layer, x = layer_of(kind, format, mode)
    before = layer.weight_record().result
    scale = before.scale.clone()
    rounded = round_layer(layer, GPTQ_RULE, seen_of(layer, x))
    apply(layer, rounded.codes)
    (live,) = live_weights(layer)
    zero = before.spread_zero_point()
    codes = rounded.codes.float()
    expected = (codes if zero is None else codes - zero) * before.spread_scale()
    for values in (live.result.values, layer.weight_record().result.values):
        assert torch.equal(values, expected)
    assert torch.equal(layer.weight_record().result.scale, scale)
    grid = layer.weight_record().result.format
    assert bool(grid.contains(codes).all())


def test_nearest_codes_are_the_weights_that_the_layer_has() -> None:
    for kind in ("linear", "grouped"):
        for format in ("int4", "uint4"):
            layer, x = layer_of(kind, format)
            before = layer.weight.clone()
            apply(layer, round_layer(layer, _Bad(name="bad", shift=0), seen_of(layer, x)).codes)
            assert torch.equal(layer.weight, before)


@dataclass(frozen=True, kw_only=True)
class _Bad(RoundingRule):
    """Nearest, and then wrong by ``shift``."""

    shift: float

    def round(self, problem: Any) -> Tensor:
        codes: Tensor = problem.nearest() + self.shift
        return codes if self.shift % 1 else codes.clamp(problem.low, problem.high)


def test_a_rule_that_is_worse_on_images_held_back_is_not_taken() -> None:
    layer, x = layer_of("linear")
    before = layer.weight.clone()
    rounded = round_layer(layer, _Bad(name="bad", shift=1), seen_of(layer, x))
    assert rounded.kept == "bad is worse on images held back"
    assert (rounded.gain_db, rounded.flipped) == (0.0, 0.0)
    apply(layer, rounded.codes)
    assert torch.equal(layer.weight, before)


def test_a_rule_that_gives_no_codes_is_named() -> None:
    layer, x = layer_of("linear")
    with pytest.raises(ConversionError, match=r"integer in -7 … 7 for every weight; bad gave 96"):
        round_layer(layer, _Bad(name="bad", shift=0.5), seen_of(layer, x))


def test_a_layer_that_has_seen_nothing_stays_at_nearest() -> None:
    layer, _ = layer_of("linear")
    rounded = round_layer(layer, GPTQ_RULE, SeenInputs.empty(1, 8, torch.device("cpu")))
    assert rounded.kept == "calibration never reached it"
    assert rounded.gain_db == 0.0


def test_a_weight_that_is_nan_is_refused() -> None:
    linear = nn.Linear(8, 12)
    linear.weight[0, 0] = math.nan
    layer = QuantLinear.from_float(linear, {Role.WEIGHT: Quantizer(FORMAT["int4"], MODE["tensor"])})
    seen = SeenInputs.empty(1, 8, torch.device("cpu"))
    with pytest.raises(ConversionError, match="1 values of weight are NaN"):
        round_layer(layer, GPTQ_RULE, seen)


def test_half_precision_weights_stay_on_their_grid() -> None:
    linear = nn.Linear(8, 12).to(torch.bfloat16)
    layer = QuantLinear.from_float(
        linear, {Role.WEIGHT: Quantizer(FORMAT["int4"], MODE["channel"])}
    )
    x = torch.randn(64, 8).cumsum(dim=1)
    rounded = round_layer(layer, GPTQ_RULE, seen_of_float(layer, x))
    apply(layer, rounded.codes)
    exact = rounded.codes * layer.weight_record().result.spread_scale()
    assert torch.equal(layer.weight, exact.to(torch.bfloat16))


def seen_of_float(layer: LinearMap, x: Tensor) -> SeenInputs:
    weight = layer.weight_record().source.float()[None]
    seen = SeenInputs.empty(1, 8, weight.device)
    seen.fit.add(layer.patches(x), layer.patches(x), weight)
    return seen


def test_a_gain_between_two_perfect_outputs_is_none() -> None:
    codes = torch.zeros(1, 1, dtype=torch.int32)
    assert RoundedWeight(codes, math.inf, math.inf, 0.0, 0.0).gain_db == 0.0
    assert RoundedWeight(codes, 3.0, 7.5, 0.0, 0.0).gain_db == 4.5
