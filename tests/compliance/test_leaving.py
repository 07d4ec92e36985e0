"""Leaving: what is planted on a layer's result after its quantization is found, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench_formats import FORMATS
from qbench_layers.activations import QuantGELU, QuantReLU, QuantSoftmax
from qbench_layers.linear import QuantLinear
from qbench_layers.multihead_attention import QuantMultiheadAttention
from qbench_layers.norm_act import QuantLayerNormAct
from qbench_layers.recurrent import QuantLSTM
from qbench_modes import MODES
from qbench_suite import Quantizer, QuantModule, Role
from qbench_suite.compliance import ComplianceRules, ModelCompliance

FORMAT = {format.name: format for format in FORMATS}
MODE = {mode.name: mode for mode in MODES}


def roles(mode: str = "tensor", format: str = "int8") -> dict[Role, Quantizer]:
    return dict.fromkeys(Role, Quantizer(FORMAT[format], MODE[mode]))


LAYERS: dict[str, tuple[QuantModule, Role]] = {
    "linear": (QuantLinear.from_float(nn.Linear(8, 8), roles()), Role.OUTPUT),
    "relu": (QuantReLU.from_float(nn.ReLU(), roles()), Role.ACT),
    "gelu": (QuantGELU.from_float(nn.GELU(), roles()), Role.ACT),
    "softmax": (QuantSoftmax.from_float(nn.Softmax(dim=-1), roles()), Role.ACT),
    "lstm": (QuantLSTM.from_float(nn.LSTM(8, 8), roles()), Role.OUTPUT),
}


def ten_millionths_more(_: Any, __: Any, output: Any) -> Any:
    return (output[0] * 1.00001, *output[1:]) if isinstance(output, tuple) else output * 1.00001


def in_place(_: Any, __: Any, output: Any) -> None:
    (output[0] if isinstance(output, tuple) else output).mul_(1.00001)


def behind_autograd(_: Any, __: Any, output: Any) -> None:
    (output[0] if isinstance(output, tuple) else output).data.mul_(1.00001)


def checked(layer: QuantModule, run: Callable[[], object], **keys: Any) -> ModelCompliance:
    compliance = ModelCompliance(ComplianceRules.model_validate(keys))
    with compliance.watching({"layer": layer}, 4):
        run()
    return compliance


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("hook", [ten_millionths_more, in_place, behind_autograd])
def test_a_result_altered_by_a_hook_is_found(name: str, hook: Any) -> None:
    layer, role = LAYERS[name]
    x = torch.randn(4, 8)
    clean = checked(layer, lambda: layer(x))
    assert clean.compliant, clean.violations
    handle = layer.register_forward_hook(hook)
    found = checked(layer, lambda: layer(x))
    handle.remove()
    assert not found.compliant
    assert found.checked == clean.checked, "each tensor is checked once"
    assert {(v.layer, v.role, v.batch_index) for v in found.violations} == {("layer", role, 0)}
    for failure in found.violations:
        ends = (failure.below, failure.above)
        nearest = round(failure.value / failure.scale) * failure.scale
        assert failure.value == pytest.approx(nearest * 1.00001, rel=2e-6)
        assert nearest in [pytest.approx(end, rel=1e-6) for end in ends if end is not None]
    assert not layer._forward_hooks


def test_one_element_is_named_by_its_index_and_its_neighbours() -> None:
    layer, _ = LAYERS["linear"]

    def plant(_: Any, __: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[2, 5] = 0.5 * scale
        return output

    x = torch.randn(4, 8)
    layer.record = True
    layer(x)
    (recorded,) = [r for r in layer.quantized_tensors() if r.role is Role.OUTPUT]
    layer.record = False
    layer.clear_record()
    scale = float(recorded.result.scale.view(-1)[0])
    handle = layer.register_forward_hook(plant)
    (failure,) = checked(layer, lambda: layer(x)).violations
    handle.remove()
    assert (failure.index, failure.value, failure.scale) == ((2, 5), 0.5 * scale, scale)
    assert failure.below == 0.0
    assert failure.above == pytest.approx(scale)


def test_a_hook_that_stays_on_the_grid_is_no_violation() -> None:
    layer, _ = LAYERS["linear"]
    handle = layer.register_forward_hook(lambda _, __, output: output.relu())
    assert checked(layer, lambda: layer(torch.randn(4, 8))).compliant
    handle.remove()


def test_a_forward_that_alters_its_output_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = QuantLinear.from_float(nn.Linear(8, 8), roles())
    forward = layer.forward
    monkeypatch.setattr(layer, "forward", lambda x: forward(x) * 1.00001)
    assert not checked(layer, lambda: layer(torch.randn(4, 8))).compliant


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_result_that_leaves_in_another_layout_is_laid_back(batch_first: bool) -> None:
    # A scale each token: laid out wrongly, an element would be compared with another's.
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first).eval()
    layer = QuantMultiheadAttention.from_float(attention, roles("token"))
    x = torch.randn(4, 4, 8)
    run = lambda: layer(x, x, x)  # noqa: E731
    assert checked(layer, run).compliant

    def plant(_: Any, __: Any, output: Any) -> Any:
        y = output[0].clone()
        y[(1, 3, 2) if batch_first else (3, 1, 2)] *= 1.001
        return y, output[1]

    handle = layer.register_forward_hook(plant)
    (failure,) = checked(layer, run).violations
    handle.remove()
    assert (failure.index, failure.role) == ((1, 3, 2), Role.OUTPUT)


def test_what_goes_on_within_the_layer_is_checked_as_it_was_quantized() -> None:
    from timm.layers.norm_act import LayerNormAct

    layer = QuantLayerNormAct.from_float(
        LayerNormAct(8, act_layer=nn.SiLU, apply_act=True), {Role.OUTPUT: roles()[Role.OUTPUT]}
    )
    handle = layer.register_forward_hook(ten_millionths_more)
    assert checked(layer, lambda: layer(torch.randn(4, 8))).compliant is None
    handle.remove()
    attention = nn.MultiheadAttention(8, 2).eval()
    without: dict[Role, Quantizer] = {
        role: q for role, q in roles().items() if role is not Role.OUTPUT
    }
    float_result = QuantMultiheadAttention.from_float(attention, without)
    x = torch.randn(4, 4, 8)
    handle = float_result.register_forward_hook(ten_millionths_more)
    assert checked(float_result, lambda: float_result(x, x, x)).compliant
    handle.remove()


def test_images_roles_and_shapes_are_minded() -> None:
    layer, _ = LAYERS["gelu"]
    x = torch.randn(4, 8)
    handle = layer.register_forward_hook(lambda _, __, y: (y * 1.00001).flatten())
    assert checked(layer, lambda: layer(x), roles=["input"]).compliant
    found = checked(layer, lambda: layer(x), limits={"images": 1}, roles=["act"])
    assert (found.checked, {v.index[0] for v in found.violations}) == (8, {0})
    handle.remove()
    handle = layer.register_forward_hook(lambda _, __, y: y.mean())
    assert checked(layer, lambda: layer(x)).compliant, "no scale belongs to what leaves"
    handle.remove()


def test_a_hook_in_a_converted_model_is_found_and_its_calls_are_not_miscounted() -> None:
    from qbench_suite.convert.assign import assign
    from qbench_suite.convert.policy import Policy
    from qbench_suite.convert.survey import survey
    from qbench_suite.convert.swap import convert
    from qbench_suite.manager import default_manager

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)
            self.b = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            z: Tensor = self.b((y - x) * x)
            return torch.sub(z, y)

    manager, model, x = default_manager(), Twice().eval(), torch.randn(4, 8)
    surveyed = survey(model, x, manager)
    keys = {"format": "int8", "mode": "tensor", "scope": "all", "output_format": "int8"}
    policy = Policy.model_validate({**keys, "output_mode": "tensor"})
    converted = convert(model, surveyed, assign(policy, surveyed, manager))
    expected = converted(x)
    compliance = ModelCompliance(ComplianceRules())
    with compliance.watching(converted.layers, 4):
        assert torch.equal(converted(x), expected)
    assert compliance.compliant, compliance.violations
    layer: Any = converted.layers["a"]
    layer.register_forward_hook(in_place)
    compliance = ModelCompliance(ComplianceRules())
    altered = converted(x)
    with compliance.watching(converted.layers, 4):
        assert torch.equal(converted(x), altered)
    assert compliance.violation_count
    assert {v.layer for v in compliance.violations} == {"a"}
