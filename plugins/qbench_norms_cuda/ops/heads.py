"""RMSNorm of queries and keys as one operation, and the attention that follows it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qbench_norms_cuda.attention import normalize_heads
from qbench_norms_cuda.checks import (
    check_alike,
    check_eps,
    check_heads,
    check_needs,
    check_statistics,
)
from qbench_norms_cuda.ops.operator import Operator
from qbench_norms_cuda.row_backward import row_backward
from qbench_norms_cuda.strides import packed

_Made = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


def _run(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    eps: float,
    weight_offset: float,
    *,
    save: bool = True,
) -> _Made:
    check_eps(eps)
    check_heads(q, k, q_weight, k_weight)
    weights = packed(q_weight), packed(k_weight)
    return normalize_heads(packed(q), packed(k), *weights, eps, weight_offset, save=save)


def _plain(*args: Any) -> _Made:
    return _run(*args, save=False)


def _fake(q: Tensor, k: Tensor, *args: Any) -> tuple[Tensor, ...]:
    check_heads(q, k, args[0], args[1])
    rows = [_in_memory_order(x, x.dtype, x.shape[3:]) for x in (q, k)]
    rstds = [_in_memory_order(x, torch.float32, ()) for x in (q, k)]
    return (*rows, *rstds)


def _in_memory_order(x: Tensor, dtype: torch.dtype, last: tuple[int, ...]) -> Tensor:
    """Room of the first three axes of ``x`` and ``last``, as ``normalize_heads`` makes it."""
    batch, heads, tokens = x.shape[:3]
    if packed(x).stride(1) < packed(x).stride(2):
        return x.new_empty((batch, tokens, heads, *last), dtype=dtype).transpose(1, 2)
    return x.new_empty((batch, heads, tokens, *last), dtype=dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    q, k, q_weight, k_weight, _, weight_offset = inputs
    *_, q_rstd, k_rstd = output
    ctx.weight_offset = weight_offset
    ctx.save_for_backward(q, k, q_weight, k_weight, q_rstd, k_rstd)
    ctx.mark_non_differentiable(q_rstd, k_rstd)


def _backward(ctx: Any, dq: Tensor, dk: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    q, k, q_weight, k_weight, q_rstd, k_rstd = ctx.saved_tensors
    of_q, of_k = [0, 2], [1, 3]
    made: list[Tensor | None] = [None] * 6
    for places, given in (
        (of_q, (dq, q, q_weight, q_rstd)),
        (of_k, (dk, k, k_weight, k_rstd)),
    ):
        wanted = [place for place in places if ctx.needs_input_grad[place]]
        needs = [("dx", "dweight")[place // 2] for place in wanted]
        found = HEADS_BACKWARD(*given, ctx.weight_offset, needs)
        for place, gradient in zip(wanted, found, strict=True):
            made[place] = gradient
    return tuple(made)


def _run_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    rstd: Tensor,
    weight_offset: float,
    needs: list[str],
) -> list[Tensor]:
    _checked_backward(dy, x, weight, rstd, needs)
    made = row_backward(
        dy,
        packed(x),
        "rms",
        None,
        packed(rstd.flatten()),
        weight=packed(weight),
        weight_offset=weight_offset,
        needs=tuple(needs),
    )
    return [getattr(made, name) for name in needs]


def _checked_backward(
    dy: Tensor, x: Tensor, weight: Tensor | None, rstd: Tensor, needs: list[str]
) -> None:
    check_heads(x, x, weight, None)
    check_alike("dy", dy, x)
    check_statistics("rstd", rstd.flatten(), math.prod(x.shape[:-1]), x)
    check_needs(needs, {"dx": x, "dweight": weight})


def _fake_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    rstd: Tensor,
    weight_offset: float,
    needs: list[str],
) -> list[Tensor]:
    _checked_backward(dy, x, weight, rstd, needs)
    like = {"dx": x, "dweight": weight}
    return [x.new_empty(t.shape, dtype=t.dtype) for t in map(like.get, needs) if t is not None]


HEADS_BACKWARD = Operator(
    "qk_norm_backward(Tensor dy, Tensor x, Tensor? weight, Tensor rstd, float weight_offset, "
    "str[] needs) -> Tensor[]",
    _run_backward,
    _fake_backward,
)
QK_NORM = Operator(
    "qk_norm(Tensor q, Tensor k, Tensor? q_weight, Tensor? k_weight, float eps, float weight_offset)"
    " -> (Tensor q_y, Tensor k_y, Tensor q_rstd, Tensor k_rstd)",
    _run,
    _fake,
    setup=_setup,
    backward=_backward,
    plain=_plain,
)


def qk_norm(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    eps: float = 1e-6,
    *,
    weight_offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """``rms_norm`` of queries and of keys over their last axis, in one launch.

    q (B, H, T, D), k (B, H', T', D) of one dtype, D up to 512, such as the views
    ``qkv.unflatten(-1, (3, H, D)).permute(2, 0, 3, 1, 4)`` of a packed projection; nothing is copied.
    Weights (D,) of one dtype. Outputs have the order of axes in memory of their inputs. A gradient
    copies inputs whose rows are not evenly spaced.
    """
    made: tuple[Tensor, ...] = QK_NORM(q, k, q_weight, k_weight, eps, weight_offset)
    return made[0], made[1]


def qk_norm_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    eps: float = 1e-6,
    *,
    weight_offset: float = 0.0,
    **attention: Any,
) -> Tensor:
    """``scaled_dot_product_attention(*qk_norm(q, k), v, **attention)``; the attention is torch's own.

    v (B, H', T', E); ``attention``: keywords such as ``is_causal``.
    """
    q, k = qk_norm(q, k, q_weight, k_weight, eps, weight_offset=weight_offset)
    return F.scaled_dot_product_attention(q, k, v, **attention)
