"""Quantizing: what quantizes tensors by role, and the record of what it quantized."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from torch import Tensor

from qbench_suite.scaling import Axes, FakeQuantized, Quantizer, Scales


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
#: Looks at a tensor that is about to be quantized: name within the layer, values, axes, quantizer.
Observe = Callable[[str, Tensor, Axes, Quantizer], None]


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


class Quantizing:
    """What a quantized layer and a quantized function call have in common.

    ``record`` is off by default; with it on, ``quantized_tensors`` lists, besides the weights, every
    tensor quantized since the last ``clear_record``.
    """

    #: Roles that a case gives a quantizer for.
    roles: ClassVar[tuple[Role, ...]] = (Role.WEIGHT, Role.INPUT)
    #: Roles that are quantized too, given a quantizer on purpose; others are ignored.
    optional_roles: ClassVar[tuple[Role, ...]] = ()

    quantizers: dict[Role, Quantizer]
    feature_axis: int | None

    def set_up(self, quantizers: RoleQuantizers, feature_axis: int | None) -> None:
        """Take the quantizers of the roles there are; nothing is recorded yet."""
        known = (*self.roles, *self.optional_roles)
        self.quantizers = {role: quantizers[role] for role in known if role in quantizers}
        #: Axis of the features in inputs; None for 1 of images and the last of everything else.
        self.feature_axis = feature_axis
        #: Whether what is quantized is kept.
        self.record = False
        #: Called with everything that is quantized, as it is.
        self.watch: Callable[[Quantized], None] | None = None
        #: While set, tensors are shown to it and stay float; weights are quantized already.
        self.observe: Observe | None = None
        #: Static scales by tensor name; a tensor without any has dynamic ones.
        self.static_scales: dict[str, Scales] = {}
        self._weights: list[Quantized] = []
        self._recorded: list[Quantized] = []

    def quantized_tensors(self) -> Iterator[Quantized]:
        """The quantized weights, then what was recorded since ``clear_record``."""
        yield from self._weights
        yield from self._recorded

    def clear_record(self) -> None:
        """Forget what was recorded."""
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

        ``name``: what the tensor is called within the layer, unique there; ``axis``: the feature axis
        of ``x`` where it is not the layer's; ``axes``: what all its axes mean, where features and
        summed elements lie on different ones.
        """
        quantizer = self.quantizers.get(role)
        if quantizer is None:
            return x
        if axes is None:
            axes = Axes.of_shape(tuple(x.shape), self.feature_axis if axis is None else axis)
        if self.observe is not None:
            self.observe(name, x, axes, quantizer)
            return x
        result = quantizer.fake_quantize(x, axes, scales=self.static_scales.get(name))
        self._note(Quantized(name, role, x, result))
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
        axes = axes or Axes.weight(weight.dim())
        result = quantizer.fake_quantize(weight, axes, scales=self.static_scales.get(name))
        self._weights.append(Quantized(name, role, weight, result))
        return result.values

    def _note(self, quantized: Quantized) -> None:
        if self.record:
            self._recorded.append(quantized)
        if self.watch is not None:
            self.watch(quantized)
