"""QuantLayer: how every layer of this plugin is made, and how it keeps what it takes over."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from qbench_suite import Axes, QuantModule, RoleQuantizers

#: What a layer computes between its quantizers.
Function = Callable[[Tensor], Tensor]


class QuantLayer(QuantModule):
    """A quantized layer that takes what it needs out of its float twin in ``take``.

    Parameters are frozen copies under the twin's own names, so that a state dict keeps its keys.
    Inference only: nothing is differentiable, and statistics are never updated.
    """

    #: Axis of the features in inputs where ``from_float`` names none; None: 1 of rank 4, else last.
    features: ClassVar[int | None] = None

    def __init__(self, quantizers: RoleQuantizers, *, feature_axis: int | None = None) -> None:
        axis = self.features if feature_axis is None else feature_axis
        super().__init__(quantizers, feature_axis=axis)

    @classmethod
    def from_float(
        cls, module: nn.Module, quantizers: RoleQuantizers, *, feature_axis: int | None = None
    ) -> Self:
        """The quantized twin of ``module``, in its training mode; ``module`` stays as it is.

        Raises ``LayerError`` for a module that the layer does not replace.
        """
        cls.require(module)
        layer = cls(quantizers, feature_axis=feature_axis)
        layer.take(module)
        return layer.train(module.training)

    @abstractmethod
    def take(self, module: Any) -> None:
        """Copy parameters and settings of the float twin."""

    def keep(self, name: str, tensor: Tensor | None) -> None:
        """Hold a float copy of ``tensor`` as the parameter ``name``; None stays None."""
        kept = None if tensor is None else tensor.detach().clone()
        self._freeze(name, kept)

    def keep_weight(self, name: str, weight: Tensor | None, axes: Axes | None = None) -> None:
        """Hold ``weight``, quantized for good, as the parameter ``name``; None stays None."""
        self._freeze(name, None if weight is None else self.quantize_weight(name, weight, axes))

    def keep_vector(self, name: str, vector: Tensor | None) -> None:
        """``keep_weight`` for γ and its like: no output channels, chunks along the last axis."""
        rank = 0 if vector is None else vector.dim()
        self.keep_weight(name, vector, Axes(None, rank - 1 if rank else None, None, ()))

    def _freeze(self, name: str, tensor: Tensor | None) -> None:
        parameter = None if tensor is None else nn.Parameter(tensor, requires_grad=False)
        self.register_parameter(name, parameter)


def function_of(module: nn.Module) -> Function:
    """What ``module`` computes, as a copy that never works in place."""
    module = copy.deepcopy(module)
    for part in module.modules():
        if hasattr(part, "inplace"):
            part.inplace = False  # type: ignore[assignment]
    # A child module would be taken for a layer left float, so it is one only if it has tensors that
    # must move to a device with the layer.
    if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
        return module
    function: Function = module.forward
    return function
