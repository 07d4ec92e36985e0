"""QuantLayer: how every layer of this plugin is made, and how it keeps what it takes over."""

from __future__ import annotations

import copy
import functools
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

from torch import Tensor, nn
from torch.func import functional_call

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
        """``keep_weight`` for γ and its like: no output channels, chunks along the last axis.

        A vector laid out to be broadcast, as (features, 1, 1), is quantized as (features,).
        """
        if vector is not None and vector.dim() > 1 and sum(size > 1 for size in vector.shape) < 2:
            flat = self.quantize_weight(name, vector.reshape(-1), Axes.weight(1))
            return self._freeze(name, flat.view(vector.shape))
        rank = 0 if vector is None else vector.dim()
        return self.keep_weight(name, vector, Axes(None, rank - 1 if rank else None, None, ()))

    def _freeze(self, name: str, tensor: Tensor | None) -> None:
        freeze(self, name, tensor)


class FrozenForward(nn.Module):
    """What a module computes, never in place, on frozen copies of its tensors under their own names.

    It moves between devices with the layer that holds it, and is no module of the float twin's type,
    which might be taken for a layer left float. The forward is that of evaluation.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            freeze(self, name, tensor.detach().clone())
        # The skeleton has no values of its own, and is no child: the tensors here stand in for its.
        skeleton = _out_of_place(module).to("meta").eval()
        self.function = functools.partial(functional_call, skeleton)

    def forward(self, x: Tensor) -> Tensor:
        """Whatever the module takes → what it gives."""
        y: Tensor = self.function(tensors_of(self), (x,))
        return y


def freeze(holder: nn.Module, dotted: str, tensor: Tensor | None) -> None:
    """Make ``tensor`` a parameter of ``holder``; dots lead into parts, which are made where missing."""
    *parts, name = dotted.split(".")
    for part in parts:
        if not hasattr(holder, part):
            holder.add_module(part, nn.Module())
        holder = getattr(holder, part)
    parameter = None if tensor is None else nn.Parameter(tensor, requires_grad=False)
    holder.register_parameter(name, parameter)


def tensors_of(holder: nn.Module) -> dict[str, Tensor]:
    """The parameters of ``holder``, by dotted name."""
    return dict(holder.named_parameters())


def function_of(module: nn.Module) -> Function:
    """What ``module`` computes, as a copy that never works in place."""
    if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
        return FrozenForward(module)
    function: Function = _out_of_place(module).forward
    return function


def _out_of_place(module: nn.Module) -> nn.Module:
    module = copy.deepcopy(module)
    for part in module.modules():
        if hasattr(part, "inplace"):
            part.inplace = False  # type: ignore[assignment]
    return module
