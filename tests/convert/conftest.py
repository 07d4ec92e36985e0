"""A small world to convert in: three layers, three functions, and managers that hold them."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qbench_suite import (
    IntFormat,
    Manager,
    Mode,
    PerTensor,
    QuantFunction,
    Quantizer,
    QuantModule,
    Role,
    RoleQuantizers,
    hookimpl,
)
from qbench_suite.convert.assign import Assignment
from qbench_suite.convert.sites import Survey
from qbench_suite.scaling.compiling import eager


class TinyLinear(QuantModule):
    """Linear with a quantized weight and input."""

    weight: Tensor
    bias: Tensor | None

    float_types = ("torch.nn.Linear",)
    optional_roles = (Role.OUTPUT,)

    @classmethod
    def from_float(
        cls, module: nn.Module, quantizers: RoleQuantizers, *, feature_axis: int | None = None
    ) -> Self:
        cls.require(module)
        assert isinstance(module, nn.Linear)
        layer = cls(quantizers, feature_axis=-1)
        layer.weight = nn.Parameter(layer.quantize_weight("weight", module.weight), False)
        bias = None if module.bias is None else module.bias.detach().clone()
        layer.register_buffer("bias", bias)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(self.quantize(Role.INPUT, "input", x), self.weight, self.bias)
        return self.quantize(Role.OUTPUT, "output", y)


class TinyConv(QuantModule):
    """Convolution without padding, with a quantized weight and input."""

    weight: Tensor
    bias: Tensor | None

    float_types = ("torch.nn.Conv2d",)

    @classmethod
    def from_float(
        cls, module: nn.Module, quantizers: RoleQuantizers, *, feature_axis: int | None = None
    ) -> Self:
        cls.require(module)
        assert isinstance(module, nn.Conv2d)
        layer = cls(quantizers, feature_axis=1)
        layer.weight = nn.Parameter(layer.quantize_weight("weight", module.weight), False)
        bias = None if module.bias is None else module.bias.detach().clone()
        layer.register_buffer("bias", bias)
        layer.settings = (module.stride, module.padding)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(
            self.quantize(Role.INPUT, "input", x), self.weight, self.bias, *self.settings
        )


class TinyReLU(QuantModule):
    """ReLU with a quantized input and activation."""

    float_types = ("torch.nn.ReLU",)
    roles = (Role.INPUT, Role.ACT)

    @classmethod
    def from_float(
        cls, module: nn.Module, quantizers: RoleQuantizers, *, feature_axis: int | None = None
    ) -> Self:
        return cls(quantizers, feature_axis=feature_axis)

    def forward(self, x: Tensor) -> Tensor:
        return self.quantize(Role.ACT, "act", F.relu(self.quantize(Role.INPUT, "input", x)))


class TinyAdd(QuantFunction):
    """A sum of two quantized tensors."""

    kind = "add"
    functions = ("torch.add", "torch.Tensor.add", "torch.Tensor.add_")

    @classmethod
    def misfit(
        cls, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        return "" if isinstance(args[1], Tensor) else "it adds a number"

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        left = self.quantize(Role.INPUT, "input", args[0])
        return torch.add(left, self.quantize(Role.INPUT, "other", args[1]))


class TinyMatmul(QuantFunction):
    """A product of two quantized tensors."""

    kind = "matmul"
    functions = ("torch.matmul", "torch.Tensor.matmul", "torch.bmm")

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        left = self.quantize(Role.INPUT, "input", args[0])
        return torch.matmul(left, self.quantize(Role.INPUT, "other", args[1]))


class TinyRelu(QuantFunction):
    """ReLU called as a function."""

    kind = "relu"
    functions = ("torch.nn.functional.relu", "torch.relu", "torch.Tensor.relu_")
    roles = (Role.INPUT, Role.ACT)

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        x = self.quantize(Role.INPUT, "input", args[0])
        return self.quantize(Role.ACT, "act", torch.relu(x))


INT8 = IntFormat(name="int8", bits=8, low=-127, high=127)
TENSOR = Mode(name="tensor", granularity=PerTensor(), default=True)


def plugin(name: str, **entries: Any) -> types.ModuleType:
    """A plugin that registers ``formats``, ``modes``, ``layers``, ``functions``."""
    module = types.ModuleType(name)
    for kind, values in entries.items():

        def hook(register: Callable[[object], None], values: Any = values) -> None:
            for value in values:
                register(value)

        specname = f"qbench_register_{kind}"
        setattr(module, specname, hookimpl(specname=specname)(hook))
    return module


def _manager(**entries: Any) -> Manager:
    manager = Manager()
    world = {
        "formats": (INT8,),
        "modes": (TENSOR,),
        "layers": (TinyLinear, TinyConv, TinyReLU),
        "functions": (TinyAdd, TinyMatmul, TinyRelu),
    }
    manager.register(plugin("world", **world))
    manager.register(plugin("guest", **entries))
    assert not manager.problems, manager.problems
    return manager


@pytest.fixture
def make_manager() -> Callable[..., Manager]:
    """``make_manager(layers=…, functions=…)``; what is given is of plugin ``guest``."""
    return _manager


@pytest.fixture
def manager() -> Manager:
    """The manager of the small world."""
    return _manager()


@pytest.fixture
def quantizer() -> Quantizer:
    """One scale a tensor, eight bits."""
    return Quantizer(INT8, TENSOR)


Assigned = Callable[..., tuple[Assignment, ...]]


@pytest.fixture
def assigned(quantizer: Quantizer) -> Assigned:
    """``assigned(survey)``: every role of every site that has a twin; ``bare=True``: no quantizers."""

    def assign(survey: Survey, *, bare: bool = False) -> tuple[Assignment, ...]:
        return tuple(
            Assignment(
                site,
                {} if site.twin is None or bare else dict.fromkeys(site.twin.roles, quantizer),
                site.reason,
            )
            for site in survey.sites
        )

    return assign


@pytest.fixture(autouse=True)
def uncompiled(request: pytest.FixtureRequest) -> Iterator[None]:
    """Bits are the same compiled, seconds are not; a test that asks for ``compiled`` has both."""
    if "compiled" in request.fixturenames:
        yield
    else:
        with eager():
            yield


@pytest.fixture
def compiled() -> None:
    """Asked for by tests of compiled kernels."""
