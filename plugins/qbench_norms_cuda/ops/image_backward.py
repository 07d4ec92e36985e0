"""The backward of all norms of images, as an operation of torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qbench_norms_cuda import images as raw
from qbench_norms_cuda.checks import check_alike
from qbench_norms_cuda.image_plan import laid_out
from qbench_norms_cuda.ops.operator import Operator
from qbench_norms_cuda.strides import packed


def _run_backward(
    dy: Tensor,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    norm: str,
    groups: int,
    frozen: bool,
    needs: list[str],
) -> list[Tensor]:
    check_alike("dy", dy, x)
    dtype = torch.float32 if weight is None else weight.dtype
    dx, *vectors = raw.image_norm_backward(
        *(norm, dy, x, statistics, packed(weight)),
        groups=groups,
        frozen=frozen,
        dweight=dtype if "dweight" in needs else None,
        dbias=dtype if "dbias" in needs else None,
    )
    made = {"dx": dx, "dweight": vectors[0], "dbias": vectors[1]}
    return [gradient for name in needs if (gradient := made[name]) is not None]


def _fake_backward(
    dy: Tensor, x: Tensor, statistics: Tensor, weight: Tensor | None, *rest: Any
) -> list[Tensor]:
    check_alike("dy", dy, x)
    dtype = torch.float32 if weight is None else weight.dtype
    vector = x.new_empty(x.shape[1], dtype=dtype)
    like = {"dx": laid_out(x)[0], "dweight": vector, "dbias": vector}
    return [torch.empty_like(like[name]) for name in rest[-1]]


IMAGE_NORM_BACKWARD = Operator(
    "image_norm_backward(Tensor dy, Tensor x, Tensor statistics, Tensor? weight, str norm, int groups, "
    "bool frozen, str[] needs) -> Tensor[]",
    _run_backward,
    _fake_backward,
)


def gradients(
    ctx: Any, dy: Tensor, statistics: Tensor, norm: str, *, groups: int = 1, frozen: bool = False
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Of x, weight and bias, those that ``save`` kept; None for what needs none."""
    x, weight, *_ = ctx.saved_tensors
    names = ("dx", "dweight", "dbias")
    needs = [n for n, i in zip(names, ctx.places, strict=True) if ctx.needs_input_grad[i]]
    made = IMAGE_NORM_BACKWARD(dy, x, statistics, weight, norm, groups, frozen, needs)
    found = dict(zip(needs, made, strict=True))
    dbias = found.get("dbias")
    if dbias is not None and ctx.bias_dtype != dbias.dtype:
        dbias = dbias.to(ctx.bias_dtype)
    return found.get("dx"), found.get("dweight"), dbias


def save(ctx: Any, places: tuple[int, int, int], inputs: tuple[Any, ...], *others: Tensor) -> None:
    """Keep for the backward x, weight and bias, the inputs at ``places``, and ``others``."""
    x, weight, bias = (inputs[i] for i in places)
    ctx.places, ctx.bias_dtype = places, None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight, *others)
