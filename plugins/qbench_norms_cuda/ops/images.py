"""BatchNorm, GroupNorm and InstanceNorm of images as functions of tensors, and as entries of the suite.

Images are (N, C, ...), contiguous or channels last, and outputs lie as they do; others are copied.
float32, float16 and bfloat16, computed in float32 with sums in double, rounded once. NaN and ±Inf spoil
their channel (BatchNorm) or their group of their image (GroupNorm), no other. An empty batch gives
empty outputs. Deterministic; what GroupNorm makes of an image does not depend on the others. There are
gradients, but none of gradients.

Raises of all:
    LaunchError: shapes, dtypes, groups or eps that do not fit; the message names the argument.
    DeviceError: tensors on no CUDA device, or on several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from qbench_norms_cuda.entries import entry
from qbench_norms_cuda.ops.batch import BATCH_NORM, BATCH_NORM_INFERENCE
from qbench_norms_cuda.ops.group import GROUP_NORM
from qbench_suite import NORM_OPERATIONS, LaunchError, NormKernel

_Inputs = Mapping[str, Any]
_Outputs = tuple[Tensor, ...]


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``(x − mean) / sqrt(var + eps) · weight + bias``, mean and var of each group of channels of an image.

    x (N, C, ...); weight, bias (C,), of any float dtype. The variance has divisor C / groups · positions.
    A constant group gives the bias.
    """
    y: Tensor = GROUP_NORM(x, groups, weight, bias, eps)[0]
    return y


def instance_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """``group_norm`` with groups of one channel."""
    return group_norm(x, x.shape[1] if x.dim() > 1 else 1, weight, bias, eps)


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``(x − mean) / sqrt(var + eps) · weight + bias`` of each channel, as ``F.batch_norm``.

    x (N, C, ...); the others (C,). ``training``: mean and var are those of the batch (divisor: their
    number), and running statistics, where given, move in place:
    ``running += momentum · (batch − running)``, with the unbiased variance. Otherwise they are the running
    ones. For a cumulative average, torch's ``momentum=None`` of modules that count, pass
    ``momentum=1 / number of batches so far``. An empty batch leaves the running statistics as they are.

    Raises:
        SingleValueError: training with one value a channel; a LaunchError and a ValueError.
    """
    if not training:
        if running_mean is None or running_var is None:
            raise LaunchError(
                "without training, the running statistics normalize; running_mean or running_var is None; "
                "pass both, or training=True."
            )
        y: Tensor = BATCH_NORM_INFERENCE(x, weight, bias, running_mean, running_var, eps)
        return y
    y, _, mean, var = BATCH_NORM(x, weight, bias, running_mean, running_var, momentum, eps)
    if running_mean is not None and running_var is not None:
        running_mean.copy_(mean)
        running_var.copy_(var)
    return y


def _group(inputs: _Inputs) -> _Outputs:
    return (group_norm(*(inputs[name] for name in ("x", "groups", "weight", "bias", "eps"))),)


def _training(inputs: _Inputs) -> _Outputs:
    names = ("x", "weight", "bias", "running_mean", "running_var", "momentum", "eps")
    y, _, mean, var = BATCH_NORM(*(inputs[name] for name in names))
    return y, mean, var


def _inference(inputs: _Inputs) -> _Outputs:
    names = ("x", "weight", "bias", "running_mean", "running_var", "eps")
    return (BATCH_NORM_INFERENCE(*(inputs[name] for name in names)),)


#: What computes the forwards, by name of their operation, either memory order.
_FORWARDS: dict[str, Callable[[_Inputs], _Outputs]] = {
    "group_norm": _group,
    "batch_norm": _training,
    "batch_norm_inference": _inference,
}


KERNELS: tuple[NormKernel, ...] = tuple(
    entry(operation, run)
    for operation in NORM_OPERATIONS.values()
    if (run := _FORWARDS.get((operation.forward or operation).name.removesuffix("_nhwc")))
)
