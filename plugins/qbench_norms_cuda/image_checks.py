"""What kernels of images take, looked at before anything is launched."""

from __future__ import annotations

import math

from torch import Tensor

from qbench_norms_cuda.checks import check_eps, check_rows, check_vector
from qbench_suite import LaunchError


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
    """``groups`` divides the channels of ``x``.

    Raises:
        LaunchError: it does not.
    """
    if groups < 1 or x.shape[1] % groups:
        raise LaunchError(
            f"groups divide the channels, of which there are {x.shape[1]}; groups is {groups}; "
            "choose a divisor (1 to normalize all channels together, C each by itself)."
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


def check_training(x: Tensor, momentum: float) -> None:
    """A channel of ``x`` has a variance, and ``momentum`` is a number.

    Raises:
        SingleValueError: one value a channel.
        LaunchError: momentum is NaN or ±Inf.
    """
    if x.numel() == x.shape[1]:
        raise SingleValueError(
            "a batch has more than one value a channel to be normalized by its own variance; x has "
            f"shape {tuple(x.shape)}; use a larger batch, or the running statistics (training=False)."
        )
    if not math.isfinite(momentum):
        raise LaunchError(
            f"momentum is the share of the new batch, a finite number; it is {momentum}; "
            "for a cumulative average pass 1 / number of batches so far."
        )
