"""Quantized recurrent layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from qbench_layers.base import QuantLayer
from qbench_suite import Role


class _Recurrent(QuantLayer):
    """A recurrent layer with quantized weights, of Q(x); its state stays float between the steps.

    Roles: ``weight`` for each matrix (gates · hidden, in) of each layer and direction, channels first,
    quantized once; ``input`` (…, in), features on the last axis; ``output`` (…, hidden) only where a
    quantizer for it is given. Arguments and results are torch's, but for packed sequences, which are
    not taken. Inference only: no dropout. Raises ``LayerError`` for another module.
    """

    optional_roles = (Role.OUTPUT,)
    features = -1
    #: torch's function that runs all steps of all layers.
    run: ClassVar[Callable[..., Any]]

    def take(self, module: Any) -> None:
        """Weights, biases and geometry of ``module``."""
        self.geometry = (module.bias, module.num_layers, 0.0, False, module.bidirectional)
        self.batch_first: bool = module.batch_first
        # Of the states of a step, that of the output may be projected.
        self.sizes: tuple[int, ...] = (module.proj_size or module.hidden_size, module.hidden_size)
        self.names = [name for name, _ in module.named_parameters()]
        for name in self.names:
            kept = self.keep_weight if name.startswith("weight") else self.keep
            kept(name, getattr(module, name))

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """(…, in) and the state before → (…, hidden) and the state after."""
        x = self.quantize(Role.INPUT, "input", x)
        alone = x.dim() == 2
        batch_axis = 0 if self.batch_first else 1
        if alone:
            x = x.unsqueeze(batch_axis)
            state = _each(state, lambda part: part.unsqueeze(1))
        state = self.first_state(x, x.shape[batch_axis]) if state is None else state
        weights = [self.get_parameter(name) for name in self.names]
        y, *after = type(self).run(x, state, weights, *self.geometry, self.batch_first)
        last = after[0] if len(after) == 1 else tuple(after)
        if alone:
            y, last = y.squeeze(batch_axis), _each(last, lambda part: part.squeeze(1))
        return self.quantize(Role.OUTPUT, "output", y), last

    @abstractmethod
    def first_state(self, x: Tensor, batch: int) -> Any:
        """Zeros (layers · directions, N, hidden)."""

    def zeros(self, x: Tensor, batch: int, size: int) -> Tensor:
        """A state of zeros in the dtype of ``x``."""
        _, layers, _, _, both = self.geometry
        return x.new_zeros(layers * (2 if both else 1), batch, size)


class QuantLSTM(_Recurrent):
    """torch's LSTM: the state is a pair, of what the layer gives and of what it remembers."""

    float_types = ("torch.nn.LSTM",)
    run = staticmethod(torch.lstm)

    def first_state(self, x: Tensor, batch: int) -> tuple[Tensor, ...]:
        """Two tensors of zeros."""
        return tuple(self.zeros(x, batch, size) for size in self.sizes)


class QuantGRU(_Recurrent):
    """torch's GRU: the state is what the layer gives."""

    float_types = ("torch.nn.GRU",)
    run = staticmethod(torch.gru)

    def first_state(self, x: Tensor, batch: int) -> Tensor:
        """Zeros."""
        return self.zeros(x, batch, self.sizes[0])


def _each(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``change`` of a tensor, or of each of a tuple of them; None stays None."""
    if state is None:
        return None
    return tuple(map(change, state)) if isinstance(state, tuple) else change(state)
