"""How weights of convolutions are laid out to be quantized: a row for each output channel."""

from __future__ import annotations

import torch
from torch import Tensor

from qbench_suite import Axes, Quantizing, Role


class ConvolutionWeights(Quantizing):
    """Quantizes (out, in/groups, *kernel) in the view (out, kernel · in/groups).

    Channels run fastest in a row, so that a chunk is one of channels at a position of the window where
    there are enough of them, and several positions where there are few (a stem, a depthwise
    convolution): chunks of a depthwise weight's second axis would give each element its own scale.
    """

    def quantize_weight(
        self, name: str, weight: Tensor, axes: Axes | None = None, *, role: Role = Role.WEIGHT
    ) -> Tensor:
        """As the base class does, in that view; in the memory order of the weight."""
        view = self.outputs_first(weight)
        outputs = view.shape[: view.dim() - weight.dim() + 1]
        flat = super().quantize_weight(name, view.reshape(outputs.numel(), -1), axes, role=role)
        # The memory order of the weight decides that of the output.
        result = torch.empty_like(weight)
        self.outputs_first(result).copy_(flat.view(view.shape))
        return result

    def outputs_first(self, weight: Tensor) -> Tensor:
        """A view of ``weight``: output channels first, then the kernel, then what is summed over."""
        return weight.movedim(1, -1)


class TransposedWeights(ConvolutionWeights):
    """Quantizes (in, out/groups, *kernel) of a transposed convolution as (out, kernel · in/groups)."""

    groups: int

    def outputs_first(self, weight: Tensor) -> Tensor:
        """A view (groups, out/groups, *kernel, in/groups)."""
        inputs, *others = weight.shape
        return weight.view(self.groups, inputs // self.groups, *others).movedim(1, -1)
