"""BatchNorm as operations of torch: in training, and by running statistics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qbench_norms_cuda import images as raw
from qbench_norms_cuda.image_checks import check_images, check_running, check_training
from qbench_norms_cuda.image_plan import laid_out
from qbench_norms_cuda.ops.image_backward import gradients, save
from qbench_norms_cuda.ops.operator import Operator
from qbench_norms_cuda.strides import packed

Made = tuple[Tensor | None, ...]


def _float32(vector: Tensor) -> Tensor:
    if vector.dtype == torch.float32 and vector.is_contiguous():
        return vector
    return vector.to(torch.float32).contiguous()


def _batch(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
) -> Made:
    check_images(x, weight, bias, eps)
    check_running(x, running_mean, running_var)
    check_training(x, momentum)
    running = updated = None
    if running_mean is not None and running_var is not None:
        running = _float32(running_mean), _float32(running_var)
        fresh = torch.empty_like if x.numel() else torch.clone
        updated = fresh(running[0]), fresh(running[1])
    y, statistics = raw.batch_norm_training(
        *(x, packed(weight), packed(bias), running, momentum, eps), updated=updated
    )
    return y, statistics, *(updated or (None, None))


def _fake_batch(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, *rest: Any
) -> Made:
    var, momentum, eps = rest
    check_images(x, weight, bias, eps)
    check_running(x, mean, var)
    check_training(x, momentum)
    new = None if mean is None else x.new_empty(x.shape[1], dtype=torch.float32)
    statistics = x.new_empty((x.shape[1], 4), dtype=torch.float32)
    again = None if new is None else torch.empty_like(new)
    return torch.empty_like(laid_out(x)[0]), statistics, new, again


def _setup_batch(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
    constant = [tensor for tensor in output[1:] if tensor is not None]
    save(ctx, (0, 1, 2), inputs, constant[0])
    ctx.mark_non_differentiable(*constant)


def _backward_batch(ctx: Any, dy: Tensor, *_: Any) -> Made:
    return *gradients(ctx, dy, ctx.saved_tensors[2], "batch_norm"), None, None, None, None


BATCH_NORM = Operator(
    "batch_norm(Tensor x, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, "
    "float momentum, float eps) -> (Tensor y, Tensor statistics, Tensor mean, Tensor var)",
    _batch,
    _fake_batch,
    setup=_setup_batch,
    backward=_backward_batch,
)


def _inference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    check_images(x, weight, bias, eps)
    check_running(x, mean, var)
    running = _float32(mean), _float32(var)
    return raw.batch_norm_inference(x, packed(weight), packed(bias), running, eps)


def _fake_inference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    check_images(x, weight, bias, eps)
    check_running(x, mean, var)
    return torch.empty_like(laid_out(x)[0])


def _setup_inference(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    save(ctx, (0, 1, 2), inputs, inputs[3], inputs[4])
    ctx.eps = inputs[5]


def _backward_inference(ctx: Any, dy: Tensor) -> Made:
    mean, var = (vector.double() for vector in ctx.saved_tensors[2:])
    columns = []
    for exact in (mean, (var + ctx.eps).rsqrt()):
        rounded = exact.float()
        columns += [rounded, (exact - rounded).float()]
    statistics = torch.stack(columns, 1)
    return *gradients(ctx, dy, statistics, "batch_norm", frozen=True), None, None, None


BATCH_NORM_INFERENCE = Operator(
    "batch_norm_inference(Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps)"
    " -> Tensor",
    _inference,
    _fake_inference,
    setup=_setup_inference,
    backward=_backward_inference,
)
