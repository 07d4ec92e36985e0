"""Whole models: what is planted anywhere is found and named, and nothing else is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench_formats import FORMATS
from qbench_layers.activations import QuantGELU, QuantSoftmax
from qbench_layers.batch_norm import QuantBatchNorm2d
from qbench_layers.convolution import QuantConv2d
from qbench_layers.layer_scale import QuantLayerScale
from qbench_layers.linear import QuantLinear
from qbench_layers.norms import QuantLayerNorm
from qbench_modes import MODES
from qbench_suite import (
    FloatFormat,
    LayerError,
    Mode,
    Quantized,
    Quantizer,
    QuantModule,
    Role,
    Specials,
    default_manager,
)
from qbench_suite.compliance import ComplianceRules, Failure, ModelCompliance
from qbench_suite.errors import PolicyError
from qbench_suite.layers import Quantizing, replaces
from qbench_suite.scaling import Scales

FORMAT = {format.name: format for format in FORMATS}
MODE = {mode.name: mode for mode in MODES}
Layers = Mapping[str, Quantizing]


def quantizer(name: str) -> Quantizer:
    format, mode = name.split("-")
    return Quantizer(FORMAT[format], MODE[mode])


def roles(name: str) -> dict[Role, Quantizer]:
    return dict.fromkeys(Role, quantizer(name))


def rules(**keys: Any) -> ComplianceRules:
    return ComplianceRules.model_validate(keys)


def quantized_model(name: str, classes: list[type[QuantModule]]) -> tuple[nn.Module, Layers]:
    """A model of the zoo with every module replaced that a layer replaces."""
    model = default_manager().models.get(name).build().eval()
    layers: dict[str, Quantizing] = {}

    def walk(parent: nn.Module, prefix: str) -> None:
        for key, child in list(parent.named_children()):
            for layer in classes:
                if replaces(layer, type(child)):
                    try:
                        twin = layer.from_float(child, roles("fp8_e4m3-channel"))
                    except LayerError:
                        continue
                    setattr(parent, key, twin)
                    layers[prefix + key] = child = twin
                    break
            walk(child, f"{prefix}{key}.")

    walk(model, "")
    return model, layers


@pytest.fixture(scope="module")
def vit() -> Iterator[tuple[nn.Module, Layers]]:
    return iter([quantized_model("vit", [e.layer for e in default_manager().layers])]).__next__()


def only(found: list[Failure]) -> Failure:
    (failure,) = found
    return failure


def planted_in(layer: Quantizing, name: str, index: tuple[int, ...]) -> Any:
    """Within it the element of a parameter is half way to its neighbour."""
    return _Planted(layer, name, index)


@dataclass
class _Planted:
    layer: Quantizing
    name: str
    index: tuple[int, ...]

    def __enter__(self) -> float:
        self.tensor = getattr(self.layer, self.name)
        self.before = float(self.tensor[self.index])
        self.tensor[self.index] = self.before * 1.02 + 1e-3
        return float(self.tensor[self.index])

    def __exit__(self, *_: object) -> None:
        self.tensor[self.index] = self.before


def test_a_whole_model_is_compliant_and_everything_is_counted(
    vit: tuple[nn.Module, Layers],
) -> None:
    model, layers = vit
    compliance = ModelCompliance(rules(limits={"images": 2}))
    compliance.check_weights(layers)
    weights = compliance.checked
    recorded = [r for layer in layers.values() for r in layer.quantized_tensors()]
    assert weights == sum(r.source.numel() for r in recorded)
    values: list[int] = []
    for layer in layers.values():
        layer.watch = lambda record: values.append(record.source.numel())
    with compliance.watching(layers, 2):
        model(torch.rand(2, 1, 32, 32))
    for layer in layers.values():
        layer.watch = None
    assert compliance.compliant, compliance.violations
    assert compliance.checked == weights + sum(values)
    assert compliance.images == 2
    assert not compliance.wants_images
    assert set(compliance.tensors) == {Role.WEIGHT, Role.INPUT, Role.ACT, Role.OUTPUT}
    assert sum(site.checked for site in compliance.sites.values()) == compliance.checked
    assert set(compliance.sites) == set(layers)


def test_every_weight_of_a_model_that_is_altered_is_found(vit: tuple[nn.Module, Layers]) -> None:
    _, layers = vit
    planted = 0
    for name, layer in layers.items():
        for record in list(layer.quantized_tensors()):
            live = getattr(layer, record.name)
            index = tuple(int(n) // 2 for n in live.shape)
            with planted_in(layer, record.name, index) as value:
                compliance = ModelCompliance(rules())
                compliance.check_weights(layers)
            failure = only(compliance.violations)
            assert (failure.layer, failure.role, failure.tensor) == (name, record.role, record.name)
            assert failure.value == value
            assert failure.batch_index is None
            assert compliance.violation_count == compliance.sites[name].violations == 1
            planted += 1
    assert planted > 20


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (QuantLinear.from_float(nn.Linear(20, 9), roles("int8-channel")), "weight"),
        (QuantConv2d.from_float(nn.Conv2d(6, 9, 3), roles("int4-chunk128")), "weight"),
        (QuantConv2d.from_float(nn.Conv2d(8, 8, 3, groups=8), roles("fp8_e4m3-mx32")), "weight"),
        (QuantLayerNorm.from_float(nn.LayerNorm(40), roles("fp4_e2m1-nv16")), "weight"),
        (QuantBatchNorm2d.from_float(nn.BatchNorm2d(40), roles("int8-tensor")), "running_var"),
    ],
    ids=["linear", "convolution", "depthwise", "norm", "statistics"],
)
def test_an_altered_weight_is_named_with_its_neighbours(layer: QuantModule, name: str) -> None:
    tensor = getattr(layer, name)
    index = tuple(int(n) - 2 for n in tensor.shape)
    with torch.no_grad(), planted_in(layer, name, index) as value:
        compliance = ModelCompliance(rules())
        compliance.check_weights({"a.b": layer})
    failure = only(compliance.violations)
    assert (failure.layer, failure.tensor, failure.value) == ("a.b", name, value)
    assert (failure.below or -math.inf) <= value <= (failure.above or math.inf)
    assert failure.below is not None or failure.above is not None
    assert failure.role is (Role.STATISTICS if name == "running_var" else Role.WEIGHT)


def test_a_weight_moved_to_another_tensor_is_looked_at_where_it_is() -> None:
    layer = QuantLinear.from_float(nn.Linear(8, 8), roles("int8-channel"))
    layer.weight = nn.Parameter(torch.randn(8, 8), requires_grad=False)
    compliance = ModelCompliance(rules())
    compliance.check_weights({"fc": layer})
    assert compliance.violation_count > 40
    assert len(compliance.violations) == 3


@pytest.mark.parametrize("factor", [1.001, -1.0, math.nan, 0.0])
def test_a_corrupted_scale_is_found(factor: float) -> None:
    layer = QuantLinear.from_float(nn.Linear(8, 8), roles("int8-channel"))
    (record,) = layer.quantized_tensors()
    record.result.scale[3] *= factor
    compliance = ModelCompliance(rules())
    compliance.check_weights({"fc": layer})
    assert {v.index[0] for v in compliance.violations} == {3}
    assert compliance.violation_count >= 7


@dataclass(frozen=True, kw_only=True)
class Off(FloatFormat):
    """One code is off by two units in the last place: one may vanish in the product with a scale."""

    def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
        r = super().round(x)
        return torch.where(r == 448.0, r * (1 - 2.0**-23), r)


@pytest.mark.parametrize("role", list(Role))
def test_a_format_off_at_one_code_is_found_in_every_role(role: Role) -> None:
    off = Off(name="off", exponent_bits=4, mantissa_bits=3, specials=Specials.FN)
    given = dict(roles("fp8_e4m3-tensor"), **{role: Quantizer(off, MODE["tensor"])})
    layers: dict[str, QuantModule] = {
        "fc": QuantLinear.from_float(nn.Linear(8, 8), given),
        "act": QuantSoftmax.from_float(nn.Softmax(dim=-1), given),
        "norm": QuantBatchNorm2d.from_float(nn.BatchNorm2d(8), given),
    }
    compliance = ModelCompliance(rules())
    with torch.no_grad(), compliance.watching(layers):
        x = layers["act"](layers["fc"](torch.randn(4, 8)))
        layers["norm"](x.view(1, 8, 2, 2))
    compliance.check_weights(layers)
    assert {v.role for v in compliance.violations} == {role}
    for failure in compliance.violations:
        assert failure.format == "off"
        assert failure.below is not None
        assert failure.above is not None
        assert failure.below < failure.value < failure.above


class Spoiling:
    """A quantizer whose result is spoilt on the way to the layer."""

    def __init__(self, inner: Quantizer, spoil: Any) -> None:
        self.inner, self.spoil = inner, spoil

    def fake_quantize(self, x: Tensor, axes: Any = None, *, scales: Any = None) -> Any:
        return self.spoil(self.inner.fake_quantize(x, axes, scales=scales))


def one_value(result: Any) -> Any:
    values = result.values.clone()
    values.view(-1)[5] += 0.3 * float(result.scale.view(-1)[0])
    return replace(result, values=values)


def fractional_zero_point(result: Any) -> Any:
    return replace(result, zero_point=result.zero_point + 0.25)


def corrupted_scale(result: Any) -> Any:
    return replace(result, scale=result.scale * 1.0001)


@pytest.mark.parametrize("spoil", [one_value, fractional_zero_point, corrupted_scale])
@pytest.mark.parametrize("role", [Role.INPUT, Role.ACT, Role.OUTPUT])
def test_a_spoilt_activation_is_found_in_its_batch(role: Role, spoil: Any) -> None:
    given: dict[Role, Any] = roles("uint8-tensor")
    layers: dict[str, QuantModule] = {
        "fc": QuantLinear.from_float(nn.Linear(8, 8), given),
        "softmax": QuantSoftmax.from_float(nn.Softmax(dim=-1), given),
    }
    layer = "softmax" if role is Role.ACT else "fc"
    compliance = ModelCompliance(rules())
    for batch in range(3):
        if batch == 1:
            layers[layer].quantizers[role] = Spoiling(quantizer("uint8-tensor"), spoil)  # type: ignore[assignment]
        with torch.no_grad(), compliance.watching(layers, 2):
            layers["softmax"](layers["fc"](torch.randn(2, 8)))
        layers[layer].quantizers[role] = quantizer("uint8-tensor")
    assert compliance.violation_count > 0
    for failure in compliance.violations:
        assert (failure.layer, failure.role, failure.batch_index) == (layer, role, 1)
    if spoil is one_value:
        assert only(compliance.violations).index == (0, 5)


def test_static_scales_are_the_ones_checked() -> None:
    layer = QuantGELU.from_float(nn.GELU(), {Role.INPUT: quantizer("int8-tensor")})
    layer.static_scales["input"] = Scales(torch.tensor([[0.01]]))
    compliance = ModelCompliance(rules())
    with compliance.watching({"act": layer}):
        layer(torch.randn(4, 8) * 100)
    assert compliance.compliant
    assert compliance.checked == 32


def test_images_limit_what_is_checked_but_weights_never() -> None:
    layer = QuantLinear.from_float(nn.Linear(8, 4), roles("int8-channel"))
    compliance = ModelCompliance(rules(limits={"images": 5}, roles=["weight", "input"]))
    compliance.check_weights({"fc": layer})
    for _ in range(3):
        with torch.no_grad(), compliance.watching({"fc": layer}, 3):
            layer(torch.randn(3, 8))
    (weight, read) = compliance.verdicts
    assert (weight.role, weight.checked, weight.times) == (Role.WEIGHT, 32, 1)
    assert (read.role, read.checked, read.times) == (Role.INPUT, 5 * 8, 2)
    assert compliance.images == 5


def test_windows_of_images_are_limited_alike() -> None:
    layer = QuantLinear.from_float(nn.Linear(8, 4), {Role.INPUT: quantizer("int8-token")})
    compliance = ModelCompliance(rules(limits={"images": 1}))
    with torch.no_grad(), compliance.watching({"fc": layer}, 2):
        layer(torch.randn(6, 3, 8))
    assert compliance.checked == 3 * 3 * 8


def test_sampled_elements_find_mistakes_at_their_place() -> None:
    layer = QuantLinear.from_float(nn.Linear(50, 40), roles("int8-channel"))
    layer.weight *= 1.3
    found = []
    for seed in (0, 0, 1):
        limits = {"elements_per_tensor": 100, "seed": seed, "failures": {"per_tensor": 4}}
        compliance = ModelCompliance(rules(limits=limits))
        compliance.check_weights({"fc": layer})
        assert compliance.checked == 100
        assert 60 < compliance.violation_count <= 100
        found.append(compliance.violations)
        for failure in compliance.violations:
            assert failure.value == float(layer.weight[failure.index])
    assert found[0] == found[1] != found[2]


def test_examples_are_kept_as_the_rules_say_and_all_are_counted() -> None:
    layers = {}
    for name in "abc":
        layers[name] = QuantLinear.from_float(nn.Linear(20, 8), roles("int8-channel"))
        layers[name].weight *= 1.3
    limits = {"failures": {"per_tensor": 2, "total": 5}}
    compliance = ModelCompliance(rules(limits=limits))
    compliance.check_weights(layers)
    assert [v.layer for v in compliance.violations] == ["a", "a", "b", "b", "c"]
    assert compliance.violation_count > 300


def test_roles_and_layers_are_chosen() -> None:
    layers = {
        name: QuantLinear.from_float(nn.Linear(8, 8), roles("int8-tensor"))
        for name in ("blocks.0.fc", "blocks.1.fc", "head")
    }
    chosen = rules(roles=["output"], layers={"include": ["blocks.*"], "exclude": ["*1.fc"]})
    compliance = ModelCompliance(chosen)
    compliance.check_weights(layers)
    with torch.no_grad(), compliance.watching(layers):
        for layer in layers.values():
            layer(torch.randn(2, 8))
    (verdict,) = compliance.verdicts
    assert (verdict.layer, verdict.role, verdict.checked) == ("blocks.0.fc", Role.OUTPUT, 16)
    with pytest.raises(PolicyError, match="layers to check are among those of the model"):
        ModelCompliance(rules(layers={"include": ["x"]})).check_weights(layers)


def test_watching_ends_and_another_watch_goes_on() -> None:
    layer = QuantGELU.from_float(nn.GELU(), roles("int8-tensor"))
    seen: list[Quantized] = []
    layer.watch = seen.append
    before = layer.watch
    compliance = ModelCompliance(rules())
    layer.register_forward_hook(lambda *_: 1 / 0)  # type: ignore[arg-type,return-value]
    with pytest.raises(ZeroDivisionError), compliance.watching({"act": layer, "again": layer}):
        layer(torch.randn(2, 8))
    assert layer.watch is before
    assert len(seen) == 2
    assert [v.layer for v in compliance.verdicts] == ["act", "act"]


def test_nan_of_the_input_is_no_violation() -> None:
    layer = QuantGELU.from_float(nn.GELU(), roles("int8-tensor"))
    x = torch.randn(2, 8)
    x[0, 3] = math.nan
    compliance = ModelCompliance(rules())
    with compliance.watching({"act": layer}):
        layer(x)
    assert compliance.compliant


def test_tolerance_lets_near_misses_pass() -> None:
    layer = QuantLinear.from_float(nn.Linear(8, 8), roles("int8-tensor"))
    weight = layer.weight
    index = (2, int(weight[2].abs().argmax()))
    weight[index] = torch.nextafter(weight[index], torch.tensor(math.inf))
    verdicts = []
    for tolerance in ("exact", 1):
        compliance = ModelCompliance(rules(tolerance=tolerance))
        compliance.check_weights({"fc": layer})
        verdicts.append(compliance.compliant)
    assert verdicts == [False, True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_other_dtypes_are_compliant(dtype: torch.dtype) -> None:
    layers: dict[str, QuantModule] = {
        "fc": QuantLinear.from_float(nn.Linear(64, 48).to(dtype), roles("int8-channel")),
        "scale": QuantLayerScale.from_float(_layer_scale(48).to(dtype), roles("fp8_e4m3-mx32")),
    }
    compliance = ModelCompliance(rules())
    compliance.check_weights(layers)
    with torch.no_grad(), compliance.watching(layers):
        layers["scale"](layers["fc"](torch.randn(32, 64, dtype=dtype)))
    assert compliance.compliant, compliance.violations
    assert compliance.checked == 64 * 48 + 48 + 32 * (64 + 48 + 48 + 48)


def _layer_scale(features: int) -> nn.Module:
    from timm.layers import LayerScale

    return LayerScale(features, init_values=0.3)


def test_a_mode_of_ragged_groups_is_named() -> None:
    chunks = Mode(name="chunk5", granularity=type(MODE["chunk128"].granularity)(5))
    layer = QuantLinear.from_float(
        nn.Linear(12, 3), {Role.WEIGHT: Quantizer(FORMAT["int8"], chunks)}
    )
    layer.weight[1, 11] *= 1.01
    compliance = ModelCompliance(rules())
    compliance.check_weights({"fc": layer})
    failure = only(compliance.violations)
    assert (failure.index, failure.mode, failure.format) == ((1, 11), "chunk5", "int8")


@pytest.mark.parametrize(
    "keys",
    [{"roles": ["output"]}, {"roles": ["input"], "limits": {"images": 0}}],
    ids=["no such tensor", "no image"],
)
def test_rules_that_check_nothing_give_no_verdict(keys: dict[str, Any]) -> None:
    given = {Role.WEIGHT: quantizer("int8-tensor"), Role.INPUT: quantizer("int8-tensor")}
    layer = QuantLinear.from_float(nn.Linear(8, 8), given)
    compliance = ModelCompliance(rules(**keys))
    compliance.check_weights({"fc": layer})
    with compliance.watching({"fc": layer}, 2):
        layer(torch.randn(2, 8))
    assert (compliance.checked, compliance.compliant) == (0, None)
    assert described(compliance) == (None, "nothing checked")


@pytest.mark.parametrize(
    ("tolerance", "said"),
    [("exact", "weight=1"), (1, "weight=1;tolerance=1 ulp"), (4, "weight=1;tolerance=4 ulps")],
)
def test_a_row_says_how_exactly_it_was_checked(tolerance: Any, said: str) -> None:
    compliance = ModelCompliance(rules(tolerance=tolerance))
    layer = QuantLinear.from_float(nn.Linear(8, 8), roles("int8-tensor"))
    compliance.check_weights({"fc": layer})
    assert described(compliance) == (True, said)


def described(compliance: ModelCompliance) -> tuple[bool | None, str]:
    """``compliant`` and ``compliance`` of the row of a model."""
    from qbench_suite.engine.model_columns import describe_compliance
    from qbench_suite.results import ModelLayerRow, ModelRow

    row = ModelRow()
    describe_compliance(row, {"fc": ModelLayerRow()}, compliance)
    return row.compliant, row.compliance


def test_a_case_in_which_nothing_is_quantized_passes_without_a_verdict() -> None:
    from qbench_suite.engine import Engine, Selection, Settings
    from qbench_suite.results import ModelRow
    from qbench_suite.timing import Samples

    settings = Settings(dataset="random", images=2, eval_batch=2, layerwise=False)
    engine = Engine(default_manager(), settings)
    (case,) = engine.model_cases(Selection(models="vit", policies="fp32"))
    row = engine.run(case, lambda *_, **__: Samples(()))
    assert isinstance(row, ModelRow)
    assert (row.outcome, row.reason) == ("passed", "")
    assert (row.compliant, row.compliance) == (None, "nothing checked")
