"""The operation of rows: LayerNorm, RMSNorm and weight normalization, with what is fused with them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from qbench_norms_cuda.checks import (
    check_affine,
    check_alike,
    check_eps,
    check_fused,
    check_needs,
    check_rows,
    check_statistic,
    check_statistics,
)
from qbench_norms_cuda.ops.operator import Operator
from qbench_norms_cuda.row_backward import row_backward
from qbench_norms_cuda.row_forward import Quantization, RowOutputs, row_forward
from qbench_norms_cuda.strides import packed
from qbench_suite import LaunchError, architecture_of

#: What every norm of rows takes, in order, as a schema has it.
SCHEMA = (
    "Tensor x, str statistic, float eps, Tensor? weight, Tensor? bias, float weight_offset, "
    "Tensor? residual, Tensor? gate, Tensor? scale, Tensor? shift"
)


def checked(
    x: Tensor,
    statistic: str,
    eps: float,
    weight: Tensor | None,
    bias: Tensor | None,
    weight_offset: float,
    residual: Tensor | None,
    gate: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
) -> None:
    """Raise what is wrong with the arguments of ``SCHEMA``."""
    check_statistic(statistic)
    check_rows("x", x)
    check_eps(eps)
    if statistic == "l2":
        _check_alone(bias=bias, residual=residual, gate=gate, scale=scale, shift=shift)
    if weight is not None or bias is not None:
        rows = x.numel() // x.shape[-1]
        check_affine(weight, bias, rows if statistic == "l2" else x.shape[-1], x)
    check_fused(residual, gate, scale, shift, x)


def _check_alone(**others: Tensor | None) -> None:
    """Rows normalized by ``l2`` have one factor each, the weight, and none of ``others``."""
    if given := [name for name, tensor in others.items() if tensor is not None]:
        raise LaunchError(
            "rows normalized by 'l2' have a weight and nothing else; given are "
            f"{' and '.join(given)}; leave out what is not the weight, or use 'rms'."
        )


def forward(
    x: Tensor,
    statistic: str,
    eps: float,
    weight: Tensor | None,
    bias: Tensor | None,
    weight_offset: float,
    residual: Tensor | None,
    gate: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    *,
    quantization: Quantization | None = None,
    given_scale: Tensor | None = None,
    save: bool = False,
) -> RowOutputs:
    """``row_forward`` of checked arguments."""
    checked(x, statistic, eps, weight, bias, weight_offset, residual, gate, scale, shift)
    if not x.numel():
        architecture_of(x.device)  # an empty batch is on a device with kernels, too
    return row_forward(
        packed(x),
        statistic,
        eps,
        weight=packed(weight),
        bias=packed(bias),
        weight_offset=weight_offset,
        residual=packed(residual),
        gate=packed(gate),
        scale=packed(scale),
        shift=packed(shift),
        quantization=quantization,
        given_scale=given_scale,
        save=save,
    )


def _saving(*args: Any) -> tuple[Tensor | None, ...]:
    made = forward(*args, save=True)
    return made.y, made.total, made.offset, made.rstd


def _plain(*args: Any) -> tuple[Tensor | None, ...]:
    made = forward(*args)
    return made.y, made.total


def _fake(x: Tensor, *args: Any) -> tuple[Tensor | None, ...]:
    checked(x, *args)
    statistic, residual = args[0], args[5]
    made = 1 if residual is None else 2
    rows = (math.prod(x.shape[:-1]),)
    y, *total = (x.new_empty(x.shape) for _ in range(made))
    offset, rstd = (x.new_empty(rows, dtype=torch.float32) for _ in range(2))
    return y, total[0] if total else None, offset if statistic == "layer" else None, rstd


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    x, statistic, _, weight, _, weight_offset, residual, gate, scale, shift = inputs
    _, total, offset, rstd = output
    ctx.statistic, ctx.weight_offset, ctx.added = statistic, weight_offset, residual is not None
    ctx.tokens_share_shift = None
    if scale is not None and scale.shape != shift.shape:
        ctx.tokens_share_shift = shift.shape[1] == 1
    normalized = total if ctx.added else x
    ctx.save_for_backward(
        normalized, offset, rstd, weight, scale, gate, x if gate is not None else None
    )
    constant = [offset, rstd] if ctx.added else [total, offset, rstd]
    ctx.mark_non_differentiable(*(tensor for tensor in constant if tensor is not None))
    ctx.set_materialize_grads(False)


#: Which gradient of ``row_backward`` belongs to which place of ``SCHEMA``.
_PLACES = {0: "dx", 3: "dweight", 4: "dbias", 8: "dscale", 9: "dshift"}


def _backward(ctx: Any, dy: Tensor | None, dtotal: Tensor | None, *_: Any) -> tuple[Any, ...]:
    normalized, offset, rstd, weight, scale, gate, x = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    sums = wanted[0] or wanted[6] or wanted[7]  # those of what is normalized
    dy = torch.zeros_like(normalized) if dy is None else dy
    apart = {} if ctx.tokens_share_shift is None else {"dshift": _of_shift(ctx, dy)}
    needs = [
        name
        for place, name in _PLACES.items()
        if (wanted[place] if place else sums) and name not in apart
    ]
    made = dict(
        zip(
            needs,
            ROW_NORM_BACKWARD(
                *(dy, normalized, ctx.statistic, offset, rstd, weight),
                *(ctx.weight_offset, dtotal, scale, needs),
            ),
            strict=True,
        )
    )
    made.update(apart)
    gradients: list[Tensor | None] = [made.get(_PLACES.get(place, "")) for place in range(10)]
    if ctx.added:
        gradients[6] = gradients[0]
    if gate is not None:
        gradients[0], gradients[7] = _through_gate(gradients[6], x, gate, wanted)
    return tuple(g if want else None for g, want in zip(gradients, wanted, strict=True))


def _of_shift(ctx: Any, dy: Tensor) -> Tensor | None:
    """The gradient of a shift of another shape than the scale, which kernels do not make."""
    if not ctx.needs_input_grad[9]:
        return None
    if not ctx.tokens_share_shift:
        return dy
    return dy.sum(1, keepdim=True, dtype=torch.float32).to(dy.dtype)


def _through_gate(
    dtotal: Tensor | None, x: Tensor, gate: Tensor, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of ``x`` and ``gate``, of the sum ``residual + gate · x``."""
    if dtotal is None:
        return None, None
    dgate = None
    if wanted[7]:
        products = dtotal.float() * x.float()
        dgate = products if gate.shape == x.shape else products.sum(1, keepdim=True)
    return dtotal * gate if wanted[0] else None, None if dgate is None else dgate.to(gate.dtype)


def _run_backward(
    dy: Tensor,
    x: Tensor,
    statistic: str,
    offset: Tensor | None,
    rstd: Tensor,
    weight: Tensor | None,
    weight_offset: float,
    dtotal: Tensor | None,
    scale: Tensor | None,
    needs: list[str],
) -> list[Tensor]:
    _checked_backward(dy, x, statistic, offset, rstd, weight, dtotal, scale, needs)
    made = row_backward(
        dy,
        packed(x),
        statistic,
        packed(offset),
        packed(rstd),
        weight=packed(weight),
        weight_offset=weight_offset,
        dtotal=packed(dtotal),
        scale=packed(scale),
        needs=tuple(needs),
    )
    return [getattr(made, name) for name in needs]


def _gradients_of(
    x: Tensor, weight: Tensor | None, scale: Tensor | None
) -> dict[str, Tensor | None]:
    """The tensor that each gradient belongs to, or is like: an addend is like its multiplier."""
    return {"dx": x, "dweight": weight, "dbias": weight, "dscale": scale, "dshift": scale}


def _checked_backward(
    dy: Tensor,
    x: Tensor,
    statistic: str,
    offset: Tensor | None,
    rstd: Tensor,
    weight: Tensor | None,
    dtotal: Tensor | None,
    scale: Tensor | None,
    needs: list[str],
) -> None:
    checked(x, statistic, 0.0, weight, None, 0.0, None, None, scale, scale)
    check_alike("dy", dy, x)
    if dtotal is not None:
        check_alike("dtotal", dtotal, x)
    rows = math.prod(x.shape[:-1])
    check_statistics("rstd", rstd, rows, x)
    if statistic == "layer":
        check_statistics("offset", rstd.new_empty(0) if offset is None else offset, rows, x)
    check_needs(needs, _gradients_of(x, weight, scale))


def _fake_backward(
    dy: Tensor,
    x: Tensor,
    statistic: str,
    offset: Tensor | None,
    rstd: Tensor,
    weight: Tensor | None,
    weight_offset: float,
    dtotal: Tensor | None,
    scale: Tensor | None,
    needs: list[str],
) -> list[Tensor]:
    _checked_backward(dy, x, statistic, offset, rstd, weight, dtotal, scale, needs)
    like = _gradients_of(x, weight, scale)
    return [x.new_empty(t.shape, dtype=t.dtype) for t in map(like.get, needs) if t is not None]


ROW_NORM_BACKWARD = Operator(
    "row_norm_backward(Tensor dy, Tensor x, str statistic, Tensor? offset, Tensor rstd, "
    "Tensor? weight, float weight_offset, Tensor? dtotal, Tensor? scale, str[] needs) -> Tensor[]",
    _run_backward,
    _fake_backward,
)
ROW_NORM = Operator(
    f"row_norm({SCHEMA}) -> (Tensor y, Tensor total, Tensor offset, Tensor rstd)",
    _saving,
    _fake,
    setup=_setup,
    backward=_backward,
    plain=_plain,
)
