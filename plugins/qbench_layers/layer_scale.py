"""Quantized layer scales (Touvron et al. 2021, arXiv:2103.17239)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from qbench_layers.base import QuantLayer
from qbench_suite import Role


class QuantLayerScale(QuantLayer):
    """``y = Q(x) · Q(γ)``, never in place; the dtype of x where the float twin is in place.

    Roles: ``weight`` γ (features,), a vector; ``input`` (…, features), features on the last axis;
    ``output`` only where a quantizer for it is given. Raises ``LayerError`` for another module.
    """

    float_types: ClassVar[tuple[str, ...]] = ("timm.layers.layer_scale.LayerScale",)
    optional_roles = (Role.OUTPUT,)
    features = -1

    gamma: Tensor

    def take(self, module: Any) -> None:
        """γ of ``module``, and whether it works in place."""
        self.inplace: bool = module.inplace
        self.keep_vector("gamma", module.gamma)

    def forward(self, x: Tensor) -> Tensor:
        """(…, features) → the same."""
        y = self.scale(self.quantize(Role.INPUT, "input", x))
        return self.quantize(Role.OUTPUT, "output", y.to(x.dtype) if self.inplace else y)

    def scale(self, x: Tensor) -> Tensor:
        """``x · γ``."""
        return x * self.gamma


class QuantLayerScale2d(QuantLayerScale):
    """``QuantLayerScale`` of images (N, C, H, W), features on axis 1."""

    float_types = ("timm.layers.layer_scale.LayerScale2d", "timm.models.fastvit.LayerScale2d")
    features = 1

    def scale(self, x: Tensor) -> Tensor:
        """``x · γ``, γ along axis 1."""
        return x * self.gamma.view(1, -1, 1, 1)
