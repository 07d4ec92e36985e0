"""Pools that a model calls: what they read is quantized, what they compute is float."""

from __future__ import annotations

from torch import Tensor

from qbench_layers.functions.base import FunctionCall
from qbench_layers.functions.call import Call
from qbench_suite import Axes


class PoolFunction(FunctionCall):
    """``pool(Q(x))`` with the call's own settings.

    Role: ``input`` (N, C, …) or (C, …), features on C. Left alone: calls that ask for indices too.
    """

    optional_roles = ()

    @classmethod
    def reason(cls, call: Call) -> str:
        """Why a pool gives more than a tensor."""
        return "it gives indices as well" if call.get("return_indices", False) else ""

    def axes(self, x: Tensor, call: Call) -> Axes:
        """Features before the spatial axes, whose number is in the function's name."""
        spatial = int(call.function.__name__.removesuffix("d")[-1])
        return Axes.of_shape(tuple(x.shape), -1 - spatial)


class MaxPoolFunction(PoolFunction):
    """The maximum of Q(x) in each window: a value of the grid again."""

    kind = "max_pool"
    functions = (
        "torch.max_pool1d",
        "torch.max_pool2d",
        "torch.max_pool3d",
        "torch.nn.functional.max_pool1d",
        "torch.nn.functional.max_pool2d",
        "torch.nn.functional.max_pool3d",
    )
    parameters = (
        "input",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "ceil_mode",
        "return_indices",
    )


class AvgPoolFunction(PoolFunction):
    """The mean of Q(x) in each window, float."""

    kind = "avg_pool"
    functions = (
        "torch.avg_pool1d",
        "torch.nn.functional.avg_pool1d",
        "torch.nn.functional.avg_pool2d",
        "torch.nn.functional.avg_pool3d",
    )


class AdaptiveMaxPoolFunction(PoolFunction):
    """The maximum of Q(x) in each of ``output_size`` windows: a value of the grid again."""

    kind = "adaptive_max_pool"
    functions = (
        "torch.nn.functional.adaptive_max_pool1d",
        "torch.nn.functional.adaptive_max_pool2d",
        "torch.nn.functional.adaptive_max_pool3d",
    )
    parameters = ("input", "output_size", "return_indices")


class AdaptiveAvgPoolFunction(PoolFunction):
    """The mean of Q(x) in each of ``output_size`` windows, float."""

    kind = "adaptive_avg_pool"
    functions = (
        "torch.adaptive_avg_pool1d",
        "torch.nn.functional.adaptive_avg_pool1d",
        "torch.nn.functional.adaptive_avg_pool2d",
        "torch.nn.functional.adaptive_avg_pool3d",
    )


class MeanFunction(FunctionCall):
    """The mean of Q(x) over positions: a global pool spelled as a mean.

    Role: ``input``: images (N, C, H, W) over (2, 3) or (N, H, W, C) over (1, 2), and tokens (N, L, C)
    over 1; features on the axis left. Other means, such as those inside a norm, are left alone.
    """

    kind = "mean"
    functions = ("torch.mean", "torch.Tensor.mean")
    optional_roles = ()
    parameters = ("input", "dim", "keepdim")

    @classmethod
    def reason(cls, call: Call) -> str:
        """Why a mean is no pool."""
        if _feature_axis(call) is None:
            return f"its mean over {call.get('dim')} is no pool over positions"
        return ""

    def axes(self, x: Tensor, call: Call) -> Axes:
        """Features on the axis that is not averaged."""
        return Axes.of_shape(tuple(x.shape), _feature_axis(call))


#: Rank and axes averaged → axis of the features.
_FEATURES = {(4, (2, 3)): 1, (4, (1, 2)): 3, (3, (1,)): 2}


def _feature_axis(call: Call) -> int | None:
    rank, dim = call.get("input").dim(), call.get("dim")
    if isinstance(dim, int):
        dim = (dim,)
    if rank == 0 or not isinstance(dim, (tuple, list)):
        return None
    return _FEATURES.get((rank, tuple(sorted(axis % rank for axis in dim))))
