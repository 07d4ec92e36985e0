"""A small world for the engine: two layers, four formats, two modes, and models a test names."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import pytest
from torch import Tensor, nn
from torch.nn import functional as F

from qbench_suite import (
    CodebookFormat,
    FloatFormat,
    IntFormat,
    Manager,
    Mode,
    ModelEntry,
    PerChunk,
    PerTensor,
    QuantModule,
    Role,
    RoleQuantizers,
    hookimpl,
)
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
        layer.bias = module.bias
        return layer

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(self.quantize(Role.INPUT, "input", x), self.weight, self.bias)
        return self.quantize(Role.OUTPUT, "output", y)


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


FORMATS = (
    IntFormat(name="int8", bits=8, low=-127, high=127),
    FloatFormat(name="fp8", exponent_bits=4, mantissa_bits=3),
    FloatFormat(name="bf16", exponent_bits=8, mantissa_bits=7, unit_scale=True),
    CodebookFormat(name="scales", bits=2, values=(0.5, 1.0, 2.0, 4.0), scale_only=True),
)
MODES = (
    Mode(name="tensor", granularity=PerTensor(), default=True),
    Mode(name="chunk4", granularity=PerChunk(4), default=True),
    Mode(name="chunk2", granularity=PerChunk(2)),
)


def plugin(name: str, **entries: Any) -> types.ModuleType:
    """A plugin that registers ``formats``, ``modes``, ``layers``, ``models``, ``datasets``."""
    module = types.ModuleType(name)
    for kind, values in entries.items():

        def hook(register: Callable[[object], None], values: Any = values) -> None:
            for value in values:
                register(value)

        specname = f"qbench_register_{kind}"
        setattr(module, specname, hookimpl(specname=specname)(hook))
    return module


def _manager(
    models: Mapping[str, Callable[[], nn.Module]] | None = None, **entries: Any
) -> Manager:
    manager = Manager()
    manager.register(plugin("world", formats=FORMATS, modes=MODES, layers=(TinyLinear, TinyReLU)))
    made = [
        ModelEntry(name=name, build=build, input_size=(3, 4, 4), num_classes=5, default=True)
        for name, build in (models or {}).items()
    ]
    manager.register(plugin("guest", models=made, **entries))
    assert not manager.problems, manager.problems
    return manager


@pytest.fixture
def make_manager() -> Callable[..., Manager]:
    """``make_manager({name: build}, formats=…, layers=…)``; what is given is of plugin ``guest``."""
    return _manager


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """Bits are the same compiled, seconds are not."""
    with eager():
        yield
