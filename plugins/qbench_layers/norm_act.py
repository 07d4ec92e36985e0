"""timm's norms with an activation function at their end."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from qbench_layers.base import Function, function_of
from qbench_layers.batch_norm import QuantBatchNorm2d
from qbench_layers.norms import (
    QuantGroupNorm,
    QuantLayerNorm,
    QuantLayerNorm2d,
    QuantNorm,
    QuantRMSNorm,
)
from qbench_suite import Role


class _Activated(QuantNorm):
    """A norm whose result goes through an activation function and becomes ``act``.

    Where the activation is the identity (timm's ``apply_act=False``) the result is ``output``, as
    that of the plain norm.
    """

    drop: nn.Module
    act: Function | None

    def take(self, module: Any) -> None:
        """What the norm takes, the activation and the drop layer before it."""
        super().take(module)
        self.drop = copy.deepcopy(module.drop)
        self.act = None if isinstance(module.act, nn.Identity) else function_of(module.act)

    def finish(self, y: Tensor) -> Tensor:
        """``Q(act(y))``."""
        y = self.drop(y)
        if self.act is None:
            return super().finish(y)
        return self.quantize(Role.ACT, "act", self.act(y))


class QuantBatchNormAct2d(_Activated, QuantBatchNorm2d):
    """``y = Q(act(BN(Q(x))))`` of timm's BatchNormAct2d; what lies between norm and act is float.

    Roles: those of ``QuantBatchNorm2d``, and ``act`` for the result (N, C, H, W), features on
    axis 1. Raises ``LayerError`` where ``QuantBatchNorm2d`` does.
    """

    float_types = ("timm.layers.norm_act.BatchNormAct2d",)
    roles = (Role.WEIGHT, Role.INPUT, Role.ACT)


class QuantLayerNormAct(_Activated, QuantLayerNorm):
    """``y = Q(act(LN(Q(x))))`` of timm's LayerNormAct: shapes and ``Raises`` of ``QuantLayerNorm``.

    Roles: ``weight``, ``input``, and for the result ``act``, or ``output`` without an activation.
    """

    float_types = ("timm.layers.norm_act.LayerNormAct", "timm.layers.norm_act.LayerNormActFp32")
    roles = (Role.WEIGHT, Role.INPUT, Role.ACT, Role.OUTPUT)


class QuantLayerNormAct2d(_Activated, QuantLayerNorm2d):
    """``y = Q(act(LN(Q(x))))`` of timm's LayerNormAct2d: as ``QuantLayerNorm2d`` else.

    Roles: ``weight``, ``input``, and for the result ``act``, or ``output`` without an activation.
    """

    float_types = ("timm.layers.norm_act.LayerNormAct2d", "timm.layers.norm_act.LayerNormAct2dFp32")
    roles = (Role.WEIGHT, Role.INPUT, Role.ACT, Role.OUTPUT)


class QuantRMSNormAct(_Activated, QuantRMSNorm):
    """``y = Q(act(RMS(Q(x))))`` of timm's RmsNormAct: shapes and ``Raises`` of ``QuantRMSNorm``.

    Roles: ``weight``, ``input``, and for the result ``act``, or ``output`` without an activation.
    """

    float_types = ("timm.layers.norm_act.RmsNormAct", "timm.layers.norm_act.RmsNormActFp32")
    roles = (Role.WEIGHT, Role.INPUT, Role.ACT, Role.OUTPUT)


class QuantGroupNormAct(_Activated, QuantGroupNorm):
    """``y = Q(act(GN(Q(x))))`` of timm's GroupNormAct: shapes and ``Raises`` of ``QuantGroupNorm``.

    Roles: ``weight``, ``input``, and for the result ``act``, or ``output`` without an activation.
    """

    float_types = ("timm.layers.norm_act.GroupNormAct", "timm.layers.norm_act.GroupNorm1Act")
    roles = (Role.WEIGHT, Role.INPUT, Role.ACT, Role.OUTPUT)
