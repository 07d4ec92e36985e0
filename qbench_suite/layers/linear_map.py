"""LinearMap: a layer that multiplies patches of what it reads with one weight."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from qbench_suite.layers.quantizing import Quantized, Quantizing, Role, RoleQuantizers


class LinearMap(Quantizing):
    """A layer whose outputs are ``W · p + b`` for each patch p of what it reads.

    A linear layer's patches are the vectors that it reads, a convolution's are its windows. ``W`` is
    one weight, the attribute ``weight``, quantized under that name as rows (out, in); with ``groups``
    the first out/groups rows see the first group of each patch, and so on. Rounding rules other than
    nearest need to know this much.
    """

    weight: Tensor
    bias: Tensor | None
    groups: int = 1
    #: Whether the layer calls ``kernel``, whose inputs and outputs are then vectors, on the last axis.
    takes_kernel: ClassVar[bool] = False

    def set_up(self, quantizers: RoleQuantizers, feature_axis: int | None) -> None:
        """As every layer does; nothing but the layer itself multiplies yet."""
        super().set_up(quantizers, feature_axis)
        #: What gives ``W · x + b`` in place of float arithmetic, for x as ``read`` gives it.
        self.kernel: Callable[[Tensor], Tensor] | None = None

    @abstractmethod
    def patches(self, x: Tensor) -> Tensor:
        """(groups, patches, in) of ``x``, an input of the layer: batch first, quantized or not.

        ``in`` lies as in the rows that the weight was quantized as.
        """

    def read(self, x: Tensor) -> Tensor:
        """``x`` as the layer quantizes it before it multiplies."""
        return self.quantize(Role.INPUT, "input", x)

    def weight_record(self) -> Quantized:
        """The weight as it was quantized: rows (out, in), with their scales.

        Raises ``KeyError`` where the layer did not quantize it.
        """
        for tensor in self._weights:
            if tensor.name == "weight":
                return tensor
        raise KeyError("weight")

    @torch.no_grad()
    def set_weight(self, values: Tensor) -> None:
        """Compute with these rows (out, in) from now on, whose scales stay those of the record.

        A kernel, whose codes are those of other rows, is given up.
        """
        self.kernel = None
        self.weight_record().result.values.copy_(values)
        self.lay_rows(values, self.weight)

    def lay_rows(self, rows: Tensor, weight: Tensor) -> None:
        """Write rows (out, in) to ``weight``, in the layout that the layer computes with."""
        weight.copy_(rows)
