"""Quantized norms that compute their statistics from the input: layer, group and RMS norm."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from qbench_layers.base import QuantLayer
from qbench_suite import Role


class QuantNorm(QuantLayer):
    """What all norms share: ``y = Q(norm(Q(x)) · Q(γ) + β)``, β float; γ and β may be missing.

    γ is a vector: ``channel`` has no channel to keep in it, chunks run along it.
    """

    weight: Tensor | None
    bias: Tensor | None
    #: ε; None, in an RMS norm only, for that of the dtype.
    eps: Any

    def take(self, module: Any) -> None:
        """γ, β and ε of ``module``."""
        self.eps = module.eps
        self.keep_vector("weight", module.weight)
        self.keep("bias", getattr(module, "bias", None))

    @abstractmethod
    def normalize(self, x: Tensor) -> Tensor:
        """The float norm of ``x``: same shape, dtype and memory format as the float twin gives."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that the float twin takes → the same shape."""
        return self.finish(self.normalize(self.quantize(Role.INPUT, "input", x)))

    def finish(self, y: Tensor) -> Tensor:
        """What the layer gives for the normalised ``y``."""
        return self.quantize(Role.OUTPUT, "output", y)


class _WideNorm(QuantNorm):
    """A norm computed in float32 (float64 for float64) and rounded once to the input's dtype."""

    roles: ClassVar[tuple[Role, ...]] = (Role.WEIGHT, Role.INPUT, Role.OUTPUT)

    def normalize(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        weight = None if self.weight is None else self.weight.to(dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        return self.compute(x.to(dtype), weight, bias).to(x.dtype)

    @abstractmethod
    def compute(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """The norm of ``x``, all operands in one dtype."""


class QuantLayerNorm(_WideNorm):
    """``y = Q((Q(x) − μ) / √(σ² + ε) · Q(γ) + β)``, μ and σ² over the last axes, in float32.

    Roles: ``weight`` γ (features,); ``input`` and ``output`` (…, features), features on the last
    axis whatever the rank. A row of NaN gives NaN; a constant row gives β. Raises ``LayerError``
    for another module.
    """

    float_types: ClassVar[tuple[str, ...]] = (
        "torch.nn.LayerNorm",
        "timm.layers.norm.LayerNorm",
        "timm.layers.norm.LayerNormFp32",
    )
    features: ClassVar[int | None] = -1

    def take(self, module: Any) -> None:
        """γ, β, ε and the shape normalised over."""
        super().take(module)
        self.normalized_shape: tuple[int, ...] = tuple(module.normalized_shape)

    def compute(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """(…, features) → the same."""
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class QuantLayerNorm2d(QuantLayerNorm):
    """``QuantLayerNorm`` over the channels of images (N, C, H, W), normalised as (N, H, W, C).

    Roles and ``Raises`` are those of ``QuantLayerNorm``; features are on axis 1.
    """

    float_types: ClassVar[tuple[str, ...]] = (
        "timm.layers.norm.LayerNorm2d",
        "timm.layers.norm.LayerNorm2dFp32",
        "torchvision.models.convnext.LayerNorm2d",
    )
    features = 1

    def normalize(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → the same, in channels_last memory as the float twin gives it."""
        return super().normalize(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class QuantRMSNorm(QuantLayerNorm):
    """``y = Q(Q(x) / √(mean(x²) + ε) · Q(γ))`` over the last axes, in float32.

    Where the float twin has ε None (torch.nn.RMSNorm), it is the machine epsilon of the dtype computed
    in, that of float32 for bfloat16 inputs too, as torch has it.
    Roles, shapes and ``Raises`` are those of ``QuantLayerNorm``; a row of zeros gives zeros.
    """

    float_types: ClassVar[tuple[str, ...]] = (
        "torch.nn.RMSNorm",
        "timm.layers.norm.RmsNorm",
        "timm.layers.norm.RmsNormFp32",
    )

    def compute(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """(…, features) → the same."""
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class QuantGroupNorm(_WideNorm):
    """``y = Q((Q(x) − μ) / √(σ² + ε) · Q(γ) + β)``, μ and σ² over each group, in float32.

    Roles: ``weight`` γ (C,); ``input`` and ``output`` (N, C, …), features on axis 1 whatever the
    rank. A constant group gives β. Raises ``LayerError`` for a module that is not a GroupNorm.
    """

    float_types: ClassVar[tuple[str, ...]] = (
        "torch.nn.GroupNorm",
        "timm.layers.norm.GroupNorm",
        "timm.layers.norm.GroupNorm1",
    )
    features = 1

    def take(self, module: Any) -> None:
        """γ, β, ε and the groups."""
        super().take(module)
        self.num_groups: int = module.num_groups
        self.num_channels: int = module.num_channels

    def compute(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """(N, C, …) → the same."""
        return F.group_norm(x, self.num_groups, weight, bias, self.eps)
