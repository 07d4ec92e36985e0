"""A converted model computes on the grid where it was told to, and leaves its original alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack

from qbench_suite import Manager, Quantizer, Role
from qbench_suite.convert.assign import Assignment
from qbench_suite.convert.survey import survey
from qbench_suite.convert.swap import ConvertedModel, convert
from qbench_suite.errors import ConversionError


class Net(nn.Module):
    """A layer, a function, a residual sum in place."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 6)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.fc1(x))
        y += x
        return self.fc2(F.relu(y, inplace=True))


def made(model: nn.Module, manager: Manager, assigned: Any, **options: Any) -> ConvertedModel:
    found = survey(model, torch.randn(2, 6), manager)
    return convert(model, found, assigned(found, **options))


def test_result_is_that_of_quantized_operands(
    manager: Manager, assigned: Any, quantizer: Quantizer
) -> None:
    def q(x: Tensor) -> Tensor:
        scale = x.abs().max() / 127
        return (x / scale).round() * scale

    net = Net().eval()
    x = torch.randn(5, 6)
    y = made(net, manager, assigned)(x)
    h = F.linear(q(x), q(net.fc1.weight), net.fc1.bias)
    h = q(q(h).relu())
    h = q(h) + q(x)
    h = q(q(h).relu())
    torch.testing.assert_close(y, F.linear(q(h), q(net.fc2.weight), net.fc2.bias))


def test_without_quantizers_the_bits_are_those_of_the_original(
    manager: Manager, assigned: Any
) -> None:
    net, x = Net().eval(), torch.randn(5, 6)
    converted = made(net, manager, assigned, bare=True)
    assert set(converted.layers) == {"fc1", "act", ":add", ":relu", "fc2"}
    assert torch.equal(converted(x), net(x))


def test_original_is_untouched_and_nothing_that_changes_is_shared(
    manager: Manager, assigned: Any
) -> None:
    net = Net().train()
    state, x = copy.deepcopy(net.state_dict()), torch.randn(3, 6)
    y = net(x)
    converted = made(net, manager, assigned)
    converted(x)
    converted.train()
    for parameter in converted.parameters():
        parameter.data.zero_()
    assert all(torch.equal(net.state_dict()[key], value) for key, value in state.items())
    assert torch.equal(net(x), y)
    assert net.training
    assert net.act.inplace
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert isinstance(net.fc1, nn.Linear)


def test_site_with_a_reason_stays_float(manager: Manager, assigned: Any) -> None:
    net = Net()
    found = survey(net, torch.randn(2, 6), manager)
    assignments = [replace(a, quantizers={}, reason="excluded") for a in assigned(found)]
    converted = convert(net, found, assignments)
    assert converted.layers == {}
    assert converted.assignments == tuple(assignments)
    x = torch.randn(3, 6)
    assert torch.equal(converted(x), net(x))


def test_layers_are_the_live_ones(manager: Manager, assigned: Any) -> None:
    converted = made(Net(), manager, assigned)
    assert converted.layers["fc1"] is converted.model.get_submodule("fc1")
    seen: list[str] = []
    for name, layer in converted.layers.items():
        layer.watch = lambda tensor, name=name: seen.append(f"{name} {tensor.name}")
    converted(torch.randn(3, 6))
    assert seen == [
        *("fc1 input", "act input", "act act", ":add input", ":add other"),
        *(":relu input", ":relu act", "fc2 input"),
    ]


def test_batches_of_any_size_run(manager: Manager, assigned: Any) -> None:
    converted = made(Net(), manager, assigned)
    assert [tuple(converted(torch.randn(n, 6)).shape) for n in (1, 7, 2)] == [
        (1, 4),
        (7, 4),
        (2, 4),
    ]


def test_nothing_is_differentiable(manager: Manager, assigned: Any) -> None:
    y = made(Net(), manager, assigned)(torch.randn(2, 6, requires_grad=True))
    assert not y.requires_grad


def test_float_weights_are_not_copied(manager: Manager, assigned: Any) -> None:
    net = Net()
    layer = made(net, manager, assigned).layers["fc1"]
    (weight,) = layer.quantized_tensors()
    assert weight.source.data_ptr() == net.fc1.weight.data_ptr()


class Depends(nn.Module):
    """A model whose calls depend on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.often = nn.Linear(4, 4)
        self.seldom = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            return self.often(x) + x
        return torch.relu(self.seldom(x) + x + x)


def test_flow_that_depends_on_data_does_no_harm(manager: Manager, assigned: Any) -> None:
    net, x = Depends().eval(), torch.rand(2, 4)
    found = survey(net, x, manager)
    converted = convert(net, found, assigned(found))
    assert set(converted.layers) == {"often", ":add"}
    for sign in (1, -1, 1):
        torch.testing.assert_close(converted(sign * x), net(sign * x), atol=0.1, rtol=0.1)


def test_module_under_two_names_is_replaced_under_both(manager: Manager, assigned: Any) -> None:
    shared = nn.Linear(6, 6)
    converted = made(nn.Sequential(shared, nn.ReLU(), shared), manager, assigned)
    assert converted.model[0] is converted.model[2]
    assert converted.model[0] is converted.layers["0"]


class Thrice(nn.Module):
    """A block that runs three times in a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Net()
        self.block.fc2 = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(self.block(x)))


def test_calls_of_a_module_that_runs_often_share_their_sites(
    manager: Manager, assigned: Any
) -> None:
    converted = made(Thrice(), manager, assigned)
    seen: list[object] = []
    converted.layers["block:add"].watch = seen.append
    converted(torch.randn(2, 6))
    assert len(seen) == 3 * 2


def test_forward_that_fails_can_be_run_again(manager: Manager, assigned: Any) -> None:
    converted = made(Net(), manager, assigned)
    with pytest.raises(RuntimeError):
        converted(torch.randn(2, 5))
    assert _get_current_function_mode_stack() == []
    seen: list[object] = []
    converted.layers[":add"].watch = seen.append
    converted(torch.randn(2, 6))
    assert len(seen) == 2


def test_model_that_cannot_be_copied_says_so(manager: Manager, assigned: Any) -> None:
    net = Net()
    found = survey(net, torch.randn(2, 6), manager)
    net.kept = net.fc1(torch.randn(2, 6))  # type: ignore[assignment]
    with pytest.raises(ConversionError, match="copied before it is converted"):
        convert(net, found, assigned(found))


def test_twin_that_raises_is_named_with_its_site(
    make_manager: Callable[..., Manager], assigned: Any
) -> None:
    base = make_manager().layers.get("TinyReLU").layer

    def build(cls: Any, module: nn.Module, quantizers: Any, *, feature_axis: Any = None) -> Any:
        if quantizers:
            raise ZeroDivisionError("no")
        return base.from_float(module, quantizers)

    body = {"float_types": ("torch.nn.GELU",), "from_float": classmethod(build)}
    manager = make_manager(layers=[type("Breaks", (base,), body)])
    with pytest.raises(ConversionError, match=r"'0' \(GELU\) as Breaks raised ZeroDivisionError"):
        made(nn.Sequential(nn.GELU(), nn.Linear(6, 4)), manager, assigned)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_converted_model_runs_on_cuda(manager: Manager, assigned: Any) -> None:
    net, x = Net().cuda().eval(), torch.randn(4, 6, device="cuda")
    found = survey(net, x, manager)
    y = convert(net, found, assigned(found))(x)
    torch.testing.assert_close(y, net(x), atol=0.1, rtol=0.1)


def test_roles_without_a_quantizer_stay_float(manager: Manager, quantizer: Quantizer) -> None:
    net = nn.Sequential(nn.Linear(6, 4)).eval()
    found = survey(net, torch.randn(2, 6), manager)
    given = [Assignment(found.sites[0], {Role.INPUT: quantizer}, "")]
    converted = convert(net, found, given)
    assert torch.equal(converted.model[0].weight, net[0].weight)


def _hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 2


def _pre_hook(module: nn.Module, args: tuple[Tensor]) -> Tensor:
    return args[0] + 1


def _in(layer: nn.Module) -> nn.Module:
    layer.register_forward_pre_hook(_pre_hook)
    return layer


def _after(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(_hook)
    return layer


DRESSED: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "hook": (_after, ""),
    "pre-hook": (_in, ""),
    "scripted": (torch.jit.script, ""),
    "compiled": (lambda layer: torch.compile(layer, backend="eager"), "fc1._orig_mod"),
    "weight norm": (nn.utils.weight_norm, "fc1"),
    "spectral norm": (nn.utils.spectral_norm, "fc1"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", DRESSED)
def test_module_that_is_more_than_its_forward_still_gives_what_it_gave(
    manager: Manager, assigned: Any, way: str
) -> None:
    dress, quantized = DRESSED[way]
    net, x = Net().eval(), torch.randn(5, 6)
    net.fc1 = dress(net.fc1)  # type: ignore[assignment]
    converted = made(net, manager, assigned, bare=True)
    torch.testing.assert_close(converted(x), net(x))
    assert {name for name in converted.layers if name.startswith("fc1")} == {quantized} - {""}
    y = made(net, manager, assigned)(x)
    torch.testing.assert_close(y, net(x), atol=0.2, rtol=0.1)
    assert not torch.equal(y, net(x))


@pytest.mark.filterwarnings("ignore")
def test_model_that_is_scripted_is_copied(manager: Manager, assigned: Any) -> None:
    net, x = torch.jit.script(nn.Sequential(nn.Linear(6, 4))).eval(), torch.randn(3, 6)
    converted = made(net, manager, assigned)
    torch.testing.assert_close(converted(x), net(x))
    assert converted.layers == {}
