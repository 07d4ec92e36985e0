"""The backward of all norms of images, as an operation of torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qbench_norms_cuda import images as raw
from qbench_norms_cuda.image_checks import check_image_backward
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
    bias_dtype: torch.dtype | None = None,
) -> list[Tensor]:
    check_image_backward(dy, x, statistics, weight, norm, groups, needs, bias_dtype)
    dtypes = _dtypes(weight, bias_dtype)
    dx, *vectors = raw.image_norm_backward(
        *(norm, dy, x, _aligned(statistics), packed(weight)),
        groups=groups,
        frozen=frozen,
        dweight=dtypes["dweight"] if "dweight" in needs else None,
        dbias=dtypes["dbias"] if "dbias" in needs else None,
    )
    made = {"dx": dx, **dict(zip(dtypes, vectors, strict=True))}
    return [gradient for name in needs if (gradient := made[name]) is not None]


def _dtypes(weight: Tensor | None, bias_dtype: torch.dtype | None) -> dict[str, torch.dtype]:
    """Of the gradients of weight and bias."""
    dtype = torch.float32 if weight is None else weight.dtype
    return {"dweight": dtype, "dbias": bias_dtype or dtype}


def _aligned(statistics: Tensor) -> Tensor:
    """As kernels read them: whole rows of 16 bytes."""
    statistics = statistics.contiguous()
    return statistics.clone() if statistics.data_ptr() % 16 else statistics


def _fake_backward(
    dy: Tensor,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    norm: str,
    groups: int,
    frozen: bool,
    needs: list[str],
    bias_dtype: torch.dtype | None = None,
) -> list[Tensor]:
    check_image_backward(dy, x, statistics, weight, norm, groups, needs, bias_dtype)
    vectors = {n: x.new_empty(x.shape[1], dtype=t) for n, t in _dtypes(weight, bias_dtype).items()}
    like = {"dx": laid_out(x)[0], **vectors}
    return [torch.empty_like(like[name]) for name in needs]


IMAGE_NORM_BACKWARD = Operator(
    "image_norm_backward(Tensor dy, Tensor x, Tensor statistics, Tensor? weight, str norm, int groups, "
    "bool frozen, str[] needs, ScalarType? bias_dtype=None) -> Tensor[]",
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
    made = IMAGE_NORM_BACKWARD(
        dy, x, statistics, weight, norm, groups, frozen, needs, ctx.bias_dtype
    )
    found = dict(zip(needs, made, strict=True))
    return found.get("dx"), found.get("dweight"), found.get("dbias")


def save(ctx: Any, places: tuple[int, int, int], inputs: tuple[Any, ...], *others: Tensor) -> None:
    """Keep for the backward x, weight and bias, the inputs at ``places``, and ``others``."""
    x, weight, bias = (inputs[i] for i in places)
    ctx.places, ctx.bias_dtype = places, None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight, *others)
