"""KeepsWeights: function calls that quantize a weight once, though they are handed it every time."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from qbench_suite import Axes, Quantizing, Role, RoleQuantizers


@dataclass(frozen=True)
class _Kept:
    """A quantized weight, and what it was made from."""

    source: weakref.ref[Tensor]
    version: int
    #: What it is called among the quantized tensors.
    name: str
    values: Tensor

    @property
    def valid(self) -> bool:
        """Whether the tensor it was made from is there still, and unchanged."""
        source = self.source()
        return source is not None and _version(source) == self.version


class KeepsWeights(Quantizing):
    """Quantizes each weight when it is first seen, and again only after it was changed.

    A weight computed anew at every call is quantized at every call: no tensor seen before is there
    to be recognised. ``quantized_tensors`` lists the weights of the latest calls; ``watch`` is shown
    each one when it is quantized; what the function reads is an attribute of the weight's name.
    """

    _kept: dict[Any, _Kept]

    def set_up(self, quantizers: RoleQuantizers, feature_axis: int | None) -> None:
        """As every layer does, with no weight kept yet."""
        super().set_up(quantizers, feature_axis)
        self._kept = {}

    def keep_weight(self, name: str, tensor: Tensor, axes: Axes | None = None) -> Tensor:
        """``tensor`` fake-quantized for the role ``weight``; itself where that has no quantizer.

        ``axes``: what its axes mean, by default output channels first.
        """
        if Role.WEIGHT not in self.quantizers:
            return tensor
        source = _source(tensor)
        place = (tensor.data_ptr(), tensor.device, tensor.dtype)
        key = (name, id(source), *place, tuple(tensor.shape), tensor.stride(), axes)
        self._forget_stale()
        if key not in self._kept:
            self._keep(key, name, tensor, source, axes)
        return self._kept[key].values

    def _keep(self, key: Any, name: str, tensor: Tensor, source: Tensor, axes: Axes | None) -> None:
        name = self._unused(name)
        values = self.quantize_weight(name, tensor, axes)
        self._kept[key] = _Kept(weakref.ref(source), _version(source), name, values)
        setattr(self, name, values)

    def quantize_weight(
        self, name: str, weight: Tensor, axes: Axes | None = None, *, role: Role = Role.WEIGHT
    ) -> Tensor:
        """As the base class does; ``watch`` is shown the weight, as the forward is under way."""
        values = super().quantize_weight(name, weight, axes, role=role)
        if self.watch is not None:
            self.watch(self._weights[-1])
        return values

    def _unused(self, name: str) -> str:
        """``name``, with a number where another weight of the call site has it."""
        taken = {record.name for record in self._weights}
        names = (name, *(f"{name}.{number}" for number in range(2, len(taken) + 2)))
        return next(candidate for candidate in names if candidate not in taken)

    def _forget_stale(self) -> None:
        stale = {kept.name for kept in self._kept.values() if not kept.valid}
        if stale:
            self._kept = {key: kept for key, kept in self._kept.items() if kept.valid}
            self._weights = [record for record in self._weights if record.name not in stale]
        for name in stale:
            delattr(self, name)


def is_parameter(tensor: object) -> bool:
    """Whether ``tensor`` is a parameter, or a view of one such as its transpose."""
    return isinstance(tensor, Tensor) and isinstance(_source(tensor), nn.Parameter)


def _source(tensor: Tensor) -> Tensor:
    """The tensor that ``tensor`` is a view of; itself where it is none."""
    return tensor if tensor._base is None else tensor._base


def _version(tensor: Tensor) -> int:
    """How often the tensor was changed in place; 0 for those that do not count it."""
    return 0 if tensor.is_inference() else tensor._version
