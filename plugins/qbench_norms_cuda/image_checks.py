"""What kernels of images take, looked at before anything is launched."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qbench_norms_cuda.checks import (
    FLOATS,
    check_alike,
    check_eps,
    check_needs,
    check_rows,
    check_vector,
)
from qbench_suite import DeviceError, LaunchError


class SingleValueError(LaunchError, ValueError):
    """A variance is asked for of one value a channel; a ValueError, as torch raises."""


def check_images(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
    """``x`` (N, C, ...), its affine parameters and eps are what kernels of images take.

    Raises:
        LaunchError: an axis, length, dtype or eps that does not fit.
        DeviceError: a parameter is on another device than ``x``.
    """
    if x.dim() < 2 or x.shape[1] == 0:
        raise LaunchError(
            f"images have axes (N, C, ...) and at least one channel; x has shape {tuple(x.shape)}; "
            "reshape it, or leave the norm out."
        )
    check_rows("x", x if x.shape[-1] else x.unsqueeze(-1))
    check_eps(eps)
    for name, vector in (("weight", weight), ("bias", bias)):
        if vector is not None:
            check_vector(name, vector, x.shape[1], x)


def check_groups(x: Tensor, groups: int) -> None:
    """``groups`` is a whole number that divides the channels of ``x``.

    Raises:
        LaunchError: it is not, or does not.
    """
    if not isinstance(groups, (int, torch.SymInt)) or groups < 1 or x.shape[1] % groups:
        raise LaunchError(
            f"groups divide the channels, of which there are {x.shape[1]}; groups is {groups}; "
            "choose a whole number that does (1 to normalize all channels together, C each by itself)."
        )


def check_running(x: Tensor, mean: Tensor | None, var: Tensor | None) -> None:
    """Running statistics come in a pair, one number a channel.

    Raises:
        LaunchError: one is missing, or does not fit.
        DeviceError: one is on another device than ``x``.
    """
    if (mean is None) != (var is None):
        raise LaunchError(
            "a running mean comes with a running variance; "
            f"{'running_mean' if mean is None else 'running_var'} is None; pass both or neither."
        )
    for name, vector in (("running_mean", mean), ("running_var", var)):
        if vector is not None:
            check_vector(name, vector, x.shape[1], x)


def check_training(x: Tensor, momentum: float | None) -> None:
    """A channel of ``x`` has a variance, and ``momentum`` is a number.

    Raises:
        SingleValueError: one value a channel.
        LaunchError: momentum is None, NaN or ±Inf.
    """
    if x.numel() == x.shape[1]:
        raise SingleValueError(
            "a batch has more than one value a channel to be normalized by its own variance; x has "
            f"shape {tuple(x.shape)}; use a larger batch, or the running statistics (training=False)."
        )
    if momentum is None or not math.isfinite(momentum):
        raise LaunchError(
            f"momentum is the share of the new batch, a finite number; it is {momentum}; "
            "for a cumulative average pass 1 / number of batches so far."
        )


def check_image_backward(
    dy: Tensor,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    norm: str,
    groups: int,
    needs: list[str],
    bias_dtype: torch.dtype | None,
) -> None:
    """What the backward of a norm of images is given fits ``x``, and is what its forward took and saved.

    Raises:
        LaunchError: an unknown norm, gradient or dtype; a shape, dtype or number that does not fit.
        DeviceError: a tensor is on another device than ``x``.
    """
    check_images(x, weight, None, 0.0)
    check_alike("dy", dy, x)
    if norm not in {"batch_norm", "group_norm"}:
        raise LaunchError(
            f"norms of images are 'batch_norm' and 'group_norm'; norm is {norm!r}; name one of the two."
        )
    check_groups(x, groups)
    _check_image_statistics(
        statistics, x.shape[0] * groups if norm == "group_norm" else x.shape[1], x
    )
    check_needs(needs, {"dx": x, "dweight": x, "dbias": x})
    if bias_dtype is not None and bias_dtype not in FLOATS:
        raise LaunchError(
            "a gradient of a bias is float32, float16 or bfloat16, as the bias is; bias_dtype is "
            f"{bias_dtype}; pass one of the three, or None for that of the weight."
        )


def _check_image_statistics(statistics: Tensor, sets: int, x: Tensor) -> None:
    if statistics.shape != (sets, 4) or statistics.dtype != torch.float32:
        raise LaunchError(
            f"statistics of images are float32, four numbers for each of {sets} sets; they are "
            f"{statistics.dtype} of shape {tuple(statistics.shape)}; pass what the forward saved."
        )
    if statistics.device != x.device:
        raise DeviceError(
            f"all tensors of a kernel are on one device; statistics are on {statistics.device}, the "
            f"input on {x.device}; move one with .to()."
        )
