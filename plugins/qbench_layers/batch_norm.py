"""The quantized batch norms."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from qbench_layers.norms import QuantNorm
from qbench_suite import LayerError, Role


class QuantBatchNorm(QuantNorm):
    """``y = (Q(x) − μ) / √(σ² + ε) · Q(γ) + β`` with running statistics, in every training mode.

    Roles: ``weight`` γ (C,); ``input`` (N, C, …), features on axis 1; ``output`` only where a quantizer
    for it is given. β, μ and σ² stay float: a small σ² next to a large one rounds to
    zero, and ``1/√ε`` takes the place of ``1/√(σ² + ε)``. To measure that damage, give a quantizer for
    ``statistics``: μ and σ² are then quantized as γ is.

    Raises ``LayerError`` for a module of another type, or that has no running statistics.
    """

    optional_roles = (Role.OUTPUT, Role.STATISTICS)
    features = 1

    running_mean: Tensor
    running_var: Tensor

    def take(self, module: Any) -> None:
        """γ, β, ε and the running statistics."""
        if module.running_mean is None or module.running_var is None:
            raise LayerError(
                "A quantized batch norm uses running statistics; got a module without them "
                "(track_running_stats=False). Build it with them and run it over data in training "
                "mode, or leave it float."
            )
        super().take(module)
        self.num_features: int = module.num_features
        for name in ("running_mean", "running_var"):
            statistics = self.quantize_weight(name, getattr(module, name), role=Role.STATISTICS)
            self.register_buffer(name, statistics)

    def normalize(self, x: Tensor) -> Tensor:
        """(N, C, …) → the same."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


class QuantBatchNorm1d(QuantBatchNorm):
    """``QuantBatchNorm`` of rows (N, C) or sequences (N, C, L)."""

    float_types = ("torch.nn.BatchNorm1d",)


class QuantBatchNorm2d(QuantBatchNorm):
    """``QuantBatchNorm`` of images (N, C, H, W)."""

    float_types: ClassVar[tuple[str, ...]] = ("torch.nn.BatchNorm2d",)


class QuantBatchNorm3d(QuantBatchNorm):
    """``QuantBatchNorm`` of volumes (N, C, D, H, W)."""

    float_types = ("torch.nn.BatchNorm3d",)
