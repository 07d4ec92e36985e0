"""BatchNorm and GroupNorm of images, launched: raw functions of tensors that were checked already.

Images are (N, C, ...) of float32, float16 or bfloat16, contiguous or with contiguous channels; others
are copied. Weights and biases (C,) may have another dtype. Each forward is a kernel that sums and one
that applies, each backward likewise: x is read twice, and dy, and what is made is written once.

``statistics`` (sets, 4), float32: mean and 1 / sqrt(variance + eps), each followed by what rounding it left
out; a set is a
channel (BatchNorm) or a group of an image (GroupNorm).
"""

from __future__ import annotations

import torch
from torch import Tensor

from qbench_norms_cuda.image_launch import ImageNorm
from qbench_norms_cuda.image_plan import resident_plan
from qbench_suite import architecture_of


def _empty(x: Tensor) -> bool:
    """Whether there is nothing to launch for ``x``; its device has kernels nevertheless.

    Raises:
        DeviceError: it has none.
    """
    if x.numel():
        return False
    architecture_of(x.device)
    return True


def batch_norm_training(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running: tuple[Tensor, Tensor] | None,
    momentum: float,
    eps: float,
    *,
    updated: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """``y`` and ``statistics`` of each channel over the images; running statistics move to ``updated``.

    ``running``: mean and variance (C,) float32 before; ``updated``: where they go, by default in place.
    ``new = old + momentum · (batch − old)``, with the unbiased variance. Of no elements at all:
    running statistics stay.
    """
    call = ImageNorm.of("batch_norm", x, 1)
    y = torch.empty_like(call.x)
    statistics = x.new_empty((x.shape[1], 4), dtype=torch.float32)
    if _empty(x):
        return y, statistics.zero_()
    old = running or (None, None)
    new = updated or old
    call.fill(
        y,
        weight=weight,
        bias=bias,
        statistics=statistics,
        running_mean=old[0],
        running_var=old[1],
        new_running_mean=new[0],
        new_running_var=new[1],
        momentum=momentum,
        eps=eps,
    )
    call.run()
    return y, statistics


def batch_norm_inference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running: tuple[Tensor, Tensor],
    eps: float,
) -> Tensor:
    """``(x − running mean) / sqrt(running var + eps) · weight + bias``: one kernel, one read."""
    call = ImageNorm.of("batch_norm", x, 1)
    y = torch.empty_like(call.x)
    if not _empty(x):
        call.fill(
            y, weight=weight, bias=bias, running_mean=running[0], running_var=running[1], eps=eps
        )
        call.apply("UseRunning")
    return y


def group_norm_forward(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """``y`` and ``statistics`` of each group of channels of each image, (N · groups, 4)."""
    call = ImageNorm.of("group_norm", x, x.shape[1] // groups)
    y = torch.empty_like(call.x)
    statistics = x.new_empty((x.shape[0] * groups, 4), dtype=torch.float32)
    if _empty(x):
        return y, statistics.zero_()
    call.fill(y, weight=weight, bias=bias, statistics=statistics, eps=eps)
    plan = None
    if not call.shape.channels_last:
        elements = call.group * call.shape.positions
        plan = resident_plan(elements, x.element_size(), architecture_of(x.device))
    if plan is not None:
        call.hold(plan)
    else:
        call.run()
    return y, statistics


def image_norm_backward(
    norm: str,
    dy: Tensor,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    *,
    groups: int = 1,
    frozen: bool = False,
    dweight: torch.dtype | None = None,
    dbias: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """``dx``, and the gradients of weight and bias in the dtypes asked for; None where none is.

    ``norm``: ``batch_norm`` or ``group_norm``. ``frozen``: the statistics were running ones, which do not
    depend on x.
    """
    channels = x.shape[1]
    call = ImageNorm.of(norm, x, 1 if norm == "batch_norm" else channels // groups, dy)
    dx = torch.empty_like(call.x)
    made = [None if t is None else x.new_empty(channels, dtype=t) for t in (dweight, dbias)]
    if _empty(x):
        made = [None if gradient is None else gradient.zero_() for gradient in made]
        return dx, made[0], made[1]
    call.fill(
        dx,
        weight=weight,
        statistics=statistics,
        dweight=made[0],
        dbias=made[1],
        frozen=int(frozen),
    )
    call.run()
    return dx, made[0], made[1]
