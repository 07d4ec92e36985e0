"""QuantModule: what a quantized layer is."""

from __future__ import annotations

import functools
import importlib
from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
from torch import nn

from qbench_suite.errors import LayerError
from qbench_suite.layers.quantizing import Quantizing, RoleQuantizers


class QuantModule(Quantizing, nn.Module, ABC):
    """A layer that computes on fake-quantized tensors.

    A subclass names the float modules it replaces in ``float_types`` and the roles it quantizes in
    ``roles``, builds itself in ``from_float`` and calls ``self.quantize(role, name, x)`` on whatever
    it quantizes in ``forward``. Weights are quantized once, by ``quantize_weight``.
    """

    #: Dotted names of the float modules replaced; resolved when first needed, so that a library that
    #: is not installed costs nothing.
    float_types: ClassVar[tuple[str, ...]] = ()

    def __init__(self, quantizers: RoleQuantizers, *, feature_axis: int | None = None) -> None:
        super().__init__()
        self.set_up(quantizers, feature_axis)

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
