"""QuantModule: roles, what is recorded, and which modules a layer stands in for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qbench_suite import (
    IntFormat,
    LayerError,
    Mode,
    ModeError,
    PerChannel,
    PerTensor,
    Quantizer,
    QuantModule,
    Role,
    RoleQuantizers,
)
from qbench_suite.layers import replaces, resolve
from qbench_suite.scaling.compiling import eager

INT8 = IntFormat(name="int8", bits=8, low=-127, high=127)
TENSOR = Quantizer(INT8, Mode(name="tensor", granularity=PerTensor()))
CHANNEL = Quantizer(INT8, Mode(name="channel", granularity=PerChannel()))


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    with eager():
        yield


class Layer(QuantModule):
    """Linear without bias."""

    float_types = ("torch.nn.Linear", "no_such_library.Linear")
    optional_roles = (Role.OUTPUT,)

    @classmethod
    def from_float(
        cls, module: nn.Module, quantizers: RoleQuantizers, *, feature_axis: int | None = None
    ) -> Self:
        cls.require(module)
        assert isinstance(module, nn.Linear)
        layer = cls(quantizers, feature_axis=feature_axis)
        layer.register_buffer("weight", layer.quantize_weight("weight", module.weight))
        return layer

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(self.quantize(Role.INPUT, "input", x), self.weight)  # type: ignore[arg-type]
        return self.quantize(Role.OUTPUT, "output", y)


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(8, 4)


def test_weight_is_quantized_once_and_the_float_layer_stays() -> None:
    module = linear()
    before = module.weight.detach().clone()
    layer = Layer.from_float(module, {Role.WEIGHT: CHANNEL})
    assert torch.equal(module.weight, before)
    (weight,) = layer.quantized_tensors()
    assert (weight.name, weight.role) == ("weight", Role.WEIGHT)
    assert weight.result.scale.shape == (4, 1), "output channels are kept"
    assert torch.equal(weight.source, before)
    assert layer.weight is weight.result.values


def test_role_without_quantizer_stays_float() -> None:
    module = linear()
    layer = Layer.from_float(module, {})
    x = torch.randn(3, 8)
    assert torch.equal(layer(x), F.linear(x, module.weight))
    assert list(layer.quantized_tensors()) == []
    assert layer.weight is not module.weight


def test_roles_it_has_not_are_ignored_and_optional_ones_taken() -> None:
    layer = Layer.from_float(linear(), {Role.ACT: TENSOR, Role.OUTPUT: TENSOR})
    assert list(layer.quantizers) == [Role.OUTPUT]
    assert "output=int8-tensor" in repr(layer)


def test_forward_is_recorded_only_on_request() -> None:
    layer = Layer.from_float(linear(), dict.fromkeys(Role, TENSOR))
    x = torch.randn(3, 8)
    layer(x)
    assert [q.name for q in layer.quantized_tensors()] == ["weight"]
    layer.record = True
    y = layer(x)
    recorded = list(layer.quantized_tensors())
    assert [(q.name, q.role) for q in recorded] == [
        ("weight", Role.WEIGHT),
        ("input", Role.INPUT),
        ("output", Role.OUTPUT),
    ]
    assert recorded[1].source is x
    assert recorded[2].result.values is y
    layer.clear_record()
    assert [q.name for q in layer.quantized_tensors()] == ["weight"]


@pytest.mark.parametrize(("axis", "channels"), [(None, (1, 5, 1, 1)), (-1, (1, 1, 1, 8))])
def test_feature_axis_tells_what_a_channel_is(axis: int | None, channels: tuple[int, ...]) -> None:
    layer = Layer.from_float(linear(), {Role.INPUT: CHANNEL}, feature_axis=axis)
    layer.record = True
    layer.quantize(Role.INPUT, "input", torch.randn(2, 5, 6, 8))
    (recorded,) = layer.quantized_tensors()
    assert tuple(recorded.result.scale.shape) == channels


def test_feature_axis_of_one_tensor_may_differ() -> None:
    layer = Layer.from_float(linear(), {Role.INPUT: CHANNEL}, feature_axis=-1)
    layer.record = True
    layer.quantize(Role.INPUT, "scores", torch.randn(2, 5, 6), axis=1)
    (recorded,) = layer.quantized_tensors()
    assert recorded.result.scale.shape == (1, 5, 1)
    with pytest.raises(ModeError, match="axis 3"):
        layer.quantize(Role.INPUT, "scores", torch.randn(2, 5, 6), axis=3)


class Renamed(nn.Linear):
    pass


class Twisted(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x)


class Below(Twisted):
    pass


@pytest.mark.parametrize(
    ("module_type", "replaced"),
    [
        (nn.Linear, True),
        (Renamed, True),
        (Twisted, False),
        (Below, False),
        (nn.ReLU, False),
        (nn.Module, False),
    ],
)
def test_subclass_is_replaced_only_if_it_computes_the_same(
    module_type: type[nn.Module], replaced: bool
) -> None:
    assert replaces(Layer, module_type) is replaced


def test_wrong_module_is_refused_with_what_would_be_right() -> None:
    with pytest.raises(LayerError, match=r"Layer replaces torch\.nn\.Linear") as caught:
        Layer.from_float(Twisted(2, 2), {})
    assert "Twisted" in str(caught.value)


@pytest.mark.parametrize(
    "dotted", ["no_such_library.Linear", "torch.nn.NoSuchLayer", "torch.nn.functional", "math.pi"]
)
def test_what_is_no_module_class_resolves_to_nothing(dotted: str) -> None:
    assert resolve(dotted) is None


def test_dotted_name_resolves_to_its_class() -> None:
    assert resolve("torch.nn.Linear") is nn.Linear


def test_layer_without_forward_of_its_float_twin_cannot_be_made() -> None:
    class Half(QuantModule):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Half({})  # type: ignore[abstract]


def test_roles_are_words_of_the_command_line() -> None:
    words = [str(role) for role in Role]
    assert {"weight", "input", "act", "output"} <= set(words)
    assert all(word.isalpha() and word.islower() for word in words)


class Scaled(nn.Conv2d):
    """Leaves forward alone and computes something else all the same."""

    def _conv_forward(self, *arguments: Any) -> Tensor:
        return 100 * super()._conv_forward(*arguments)


def test_a_subclass_that_changes_what_forward_calls_is_another_layer() -> None:
    class Twin(QuantModule):
        float_types = ("torch.nn.Conv2d",)

    class Renamed(nn.Conv2d):
        def extra_repr(self) -> str:
            return "renamed"

    assert replaces(Twin, nn.Conv2d)
    assert replaces(Twin, Renamed)
    assert not replaces(Twin, Scaled)
