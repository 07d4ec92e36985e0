"""QuantModule: what a quantized layer is, and the record of what it quantized."""

from __future__ import annotations

import functools
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from qbench_suite.errors import LayerError
from qbench_suite.scaling import Axes, FakeQuantized, Quantizer


class Role(StrEnum):
    """Which tensor of a layer a quantizer serves."""

    #: Parameters; quantized once, when the layer is made.
    WEIGHT = "weight"
    #: What the layer reads; quantized at every forward.
    INPUT = "input"
    #: What an activation function (softmax included) gives.
    ACT = "act"
    #: What any other layer gives.
    OUTPUT = "output"
    #: Running statistics of a norm; quantized once, and only where that is asked for.
    STATISTICS = "statistics"


#: A quantizer for each role to be quantized; a role that is absent stays float.
RoleQuantizers = Mapping[Role, Quantizer]


@dataclass(frozen=True)
class Quantized:
    """One tensor that a layer quantized: what compliance checks."""

    #: Role and name within the layer, for instance ``weight`` or ``input``.
    name: str
    role: Role
    #: The tensor before quantization.
    source: Tensor
    #: The tensor after, with its scales.
    result: FakeQuantized


class QuantModule(nn.Module, ABC):
    """A layer that computes on fake-quantized tensors.

    A subclass names the float modules it replaces in ``float_types`` and the roles it quantizes in
    ``roles``, builds itself in ``from_float`` and calls ``self.quantize(role, name, x)`` on whatever
    it quantizes in ``forward``. Weights are quantized once, by ``quantize_weight``.

    ``record`` is off by default; with it on, ``quantized_tensors`` lists, besides the weights, every
    tensor quantized since the last ``clear_record``.
    """

    #: Dotted names of the float modules replaced; resolved when first needed, so that a library that
    #: is not installed costs nothing.
    float_types: ClassVar[tuple[str, ...]] = ()
    #: Roles that a case gives the layer a quantizer for.
    roles: ClassVar[tuple[Role, ...]] = (Role.WEIGHT, Role.INPUT)
    #: Roles that it quantizes too, where it is given a quantizer on purpose; others it ignores.
    optional_roles: ClassVar[tuple[Role, ...]] = ()

    def __init__(self, quantizers: RoleQuantizers, *, feature_axis: int | None = None) -> None:
        super().__init__()
        known = (*self.roles, *self.optional_roles)
        self.quantizers = {role: quantizers[role] for role in known if role in quantizers}
        #: Axis of the features in inputs; None for 1 of images and the last of everything else.
        self.feature_axis = feature_axis
        #: Whether forward keeps what it quantized.
        self.record = False
        self._weights: list[Quantized] = []
        self._recorded: list[Quantized] = []

    @classmethod
    @abstractmethod
    def from_float(
        cls, module: nn.Module, quantizers: RoleQuantizers, *, feature_axis: int | None = None
    ) -> Self:
        """The quantized twin of ``module``, which stays as it is.

        ``feature_axis``: the axis of the input that holds features, where the default (1 of images,
        else the last) would be wrong. Raises ``LayerError`` for a module it cannot replace.
        """

    @classmethod
    def require(cls, module: nn.Module) -> None:
        """Raise ``LayerError`` unless this layer is the twin of modules like ``module``."""
        if not replaces(cls, type(module)):
            found = f"{type(module).__module__}.{type(module).__qualname__}"
            raise LayerError(
                f"{cls.__name__} replaces {', '.join(cls.float_types)} and subclasses that leave their "
                f"forward as it is; got {found}. Register a layer of its own for it, or leave it float."
            )

    def quantized_tensors(self) -> Iterator[Quantized]:
        """The quantized weights, then what was recorded since ``clear_record``."""
        yield from self._weights
        yield from self._recorded

    def clear_record(self) -> None:
        """Forget what forwards recorded."""
        self._recorded.clear()

    def quantize(
        self,
        role: Role,
        name: str,
        x: Tensor,
        *,
        axis: int | None = None,
        axes: Axes | None = None,
    ) -> Tensor:
        """``x`` fake-quantized for ``role``; ``x`` itself where the role has no quantizer.

        ``axis``: the feature axis of ``x`` where it is not the layer's; ``axes``: what all its axes
        mean, where features and summed elements lie on different ones.
        """
        quantizer = self.quantizers.get(role)
        if quantizer is None:
            return x
        if axes is None:
            axes = Axes.of_shape(tuple(x.shape), self.feature_axis if axis is None else axis)
        result = quantizer.fake_quantize(x, axes)
        if self.record:
            self._recorded.append(Quantized(name, role, x, result))
        return result.values

    def quantize_weight(
        self, name: str, weight: Tensor, axes: Axes | None = None, *, role: Role = Role.WEIGHT
    ) -> Tensor:
        """``weight`` fake-quantized once for good; a copy of it where ``role`` has no quantizer.

        ``axes``: what its axes mean, by default output channels first.
        """
        weight = weight.detach()
        quantizer = self.quantizers.get(role)
        if quantizer is None:
            return weight.clone()
        result = quantizer.fake_quantize(weight, axes or Axes.weight(weight.dim()))
        self._weights.append(Quantized(name, role, weight, result))
        return result.values

    def extra_repr(self) -> str:
        """Role by role, the quantizer."""
        return ", ".join(f"{role}={quantizer}" for role, quantizer in self.quantizers.items())


@functools.cache
def resolve(dotted: str) -> type[nn.Module] | None:
    """The class of that dotted name; None where its library is absent or has no such class."""
    module, _, name = dotted.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    return found if isinstance(found, type) and issubclass(found, torch.nn.Module) else None


def replaces(layer: type[QuantModule], module_type: type[nn.Module]) -> bool:
    """Whether ``layer`` is the twin of modules of ``module_type``.

    True for a type named in ``float_types``, and for a subclass of one that leaves its ``forward``,
    and the methods that this calls, as they are: a subclass that computes something else is another
    layer, which nobody registered.
    """
    for dotted in layer.float_types:
        float_type = resolve(dotted)
        if float_type is module_type:
            return True
        if float_type is None or not issubclass(module_type, float_type):
            continue
        if all(
            getattr(module_type, name) is getattr(float_type, name)
            for name in _arithmetic(float_type)
        ):
            return True
    return False


#: Methods of a module that compute nothing.
_CLERICAL = frozenset({"extra_repr", "reset_parameters"})


def _arithmetic(float_type: type[nn.Module]) -> list[str]:
    """``forward`` and the other methods that a module type defines itself."""
    own = [
        name
        for name, value in vars(float_type).items()
        if callable(value) and not name.startswith("__") and name not in _CLERICAL
    ]
    return ["forward", *own]
