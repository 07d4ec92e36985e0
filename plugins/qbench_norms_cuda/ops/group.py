"""GroupNorm as an operation of torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qbench_norms_cuda import images as raw
from qbench_norms_cuda.image_checks import check_groups, check_images
from qbench_norms_cuda.image_plan import laid_out
from qbench_norms_cuda.ops.image_backward import gradients, save
from qbench_norms_cuda.ops.operator import Operator
from qbench_norms_cuda.strides import packed


def _group(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    check_images(x, weight, bias, eps)
    check_groups(x, groups)
    return raw.group_norm_forward(x, groups, packed(weight), packed(bias), eps)


def _fake_group(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    check_images(x, weight, bias, eps)
    check_groups(x, groups)
    statistics = x.new_empty((x.shape[0] * groups, 4), dtype=torch.float32)
    return torch.empty_like(laid_out(x)[0]), statistics


def _setup_group(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    save(ctx, (0, 2, 3), inputs, output[1])
    ctx.groups = inputs[1]
    ctx.mark_non_differentiable(output[1])


def _backward_group(ctx: Any, dy: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    dx, dweight, dbias = gradients(ctx, dy, ctx.saved_tensors[2], "group_norm", groups=ctx.groups)
    return dx, None, dweight, dbias, None


GROUP_NORM = Operator(
    "group_norm(Tensor x, int groups, Tensor? weight, Tensor? bias, float eps)"
    " -> (Tensor y, Tensor statistics)",
    _group,
    _fake_group,
    setup=_setup_group,
    backward=_backward_group,
)
