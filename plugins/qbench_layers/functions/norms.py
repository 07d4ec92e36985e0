"""Norms that a model calls: what they read is quantized; their vectors stay float."""

from __future__ import annotations

from torch import Tensor

from qbench_layers.functions.base import FunctionCall
from qbench_layers.functions.call import Call
from qbench_suite import Axes


class _TokenNorm(FunctionCall):
    """A norm over the last axes: features on the last one."""

    def axes(self, x: Tensor, call: Call) -> Axes:
        """Features on the last axis."""
        return Axes.of_shape(tuple(x.shape), -1)


class _ChannelNorm(FunctionCall):
    """A norm of (N, C, …): features on axis 1."""

    def axes(self, x: Tensor, call: Call) -> Axes:
        """Features on axis 1."""
        return Axes.of_shape(tuple(x.shape), 1)


class LayerNormFunction(_TokenNorm):
    """``(Q(x) − μ) / √(σ² + ε) · γ + β`` over the last axes, γ and β float.

    Role: ``input`` (…, features); ``output`` only where a quantizer for it is given.
    """

    kind = "layer_norm"
    functions = ("torch.layer_norm", "torch.nn.functional.layer_norm")


class RMSNormFunction(_TokenNorm):
    """``Q(x) / √(mean(x²) + ε) · γ`` over the last axes, γ float.

    Role: ``input`` (…, features); ``output`` only where a quantizer for it is given.
    """

    kind = "rms_norm"
    functions = ("torch.rms_norm", "torch.nn.functional.rms_norm")


class GroupNormFunction(_ChannelNorm):
    """``(Q(x) − μ) / √(σ² + ε) · γ + β`` over each group of channels, γ and β float.

    Role: ``input`` (N, C, …), features on C; ``output`` only where a quantizer for it is given.
    """

    kind = "group_norm"
    functions = ("torch.group_norm", "torch.nn.functional.group_norm")


class InstanceNormFunction(_ChannelNorm):
    """``(Q(x) − μ) / √(σ² + ε) · γ + β`` over the positions of each channel, γ and β float.

    Role: ``input`` (N, C, …), features on C; ``output`` only where a quantizer for it is given.
    Left alone: calls that update running statistics.
    """

    kind = "instance_norm"
    functions = ("torch.nn.functional.instance_norm",)
    parameters = ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats")

    @classmethod
    def reason(cls, call: Call) -> str:
        """Why the call does more than normalise."""
        updates = call.get("running_mean") is not None and call.get("use_input_stats", True)
        return "it updates running statistics" if updates else ""


class BatchNormFunction(_ChannelNorm):
    """``(Q(x) − μ) / √(σ² + ε) · γ + β`` with running statistics; all four stay float.

    Role: ``input`` (N, C, …), features on C; ``output`` only where a quantizer for it is given.
    Left alone: calls in training mode, which update statistics, or standardise a weight.
    """

    kind = "batch_norm"
    functions = ("torch.nn.functional.batch_norm",)
    parameters = ("input", "running_mean", "running_var", "weight", "bias", "training")

    @classmethod
    def reason(cls, call: Call) -> str:
        """Why the call does more than normalise."""
        return "it is in training mode" if call.get("training", False) else ""
