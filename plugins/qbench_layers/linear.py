"""The quantized linear layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from qbench_layers.base import QuantLayer
from qbench_suite import LinearMap, Role


class QuantLinear(LinearMap, QuantLayer):
    """``y = Q(x) · Q(W)ᵀ + b``, W quantized once, b float; by ``kernel`` where there is one.

    Roles: ``weight`` (out, in), channels ``out``, chunks along ``in``; ``input`` (…, in) of any
    rank, features on the last axis; ``output`` (…, out) only where a quantizer for it is given. NaN
    and ±Inf are treated as the quantizer does. Raises ``LayerError`` for another module.
    """

    float_types = ("torch.nn.Linear", "timm.layers.linear.Linear")
    optional_roles = (Role.OUTPUT,)
    features = -1
    takes_kernel = True

    def take(self, module: Any) -> None:
        """Weight, bias and sizes of ``module``."""
        self.in_features: int = module.in_features
        self.out_features: int = module.out_features
        self.keep_weight("weight", module.weight)
        self.keep("bias", module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        x = self.read(x)
        kernel = self.kernel
        y = F.linear(x, self.weight, self.bias) if kernel is None else kernel(x)
        return self.quantize(Role.OUTPUT, "output", y)

    def patches(self, x: Tensor) -> Tensor:
        """(1, vectors, in)."""
        return x.reshape(1, -1, self.in_features)
