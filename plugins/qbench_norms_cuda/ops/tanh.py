"""Dynamic tanh as an operation of torch: the elementwise stand-in for a norm."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from qbench_norms_cuda import dynamic_tanh as raw
from qbench_norms_cuda.checks import (
    check_affine,
    check_alike,
    check_needs,
    check_number,
    check_rows,
)
from qbench_norms_cuda.ops.operator import Operator
from qbench_norms_cuda.strides import packed

#: Which gradient belongs to which argument, in order.
_GRADIENTS = ("dx", "dalpha", "dweight", "dbias")


def _checked(x: Tensor, alpha: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    check_rows("x", x)
    check_number("alpha", alpha, x)
    check_affine(weight, bias, x.shape[-1], x)


def _forward(x: Tensor, alpha: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    _checked(x, alpha, weight, bias)
    return raw.dynamic_tanh(packed(x), alpha, packed(weight), packed(bias))


def _fake(x: Tensor, alpha: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    _checked(x, alpha, weight, bias)
    return x.new_empty(x.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, alpha, weight, _ = inputs
    ctx.save_for_backward(x, alpha, weight)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    needs = [name for name, wanted in zip(_GRADIENTS, ctx.needs_input_grad, strict=True) if wanted]
    made = dict(zip(needs, DYNAMIC_TANH_BACKWARD(dy, *ctx.saved_tensors, needs), strict=True))
    return tuple(map(made.get, _GRADIENTS))


def _run_backward(
    dy: Tensor, x: Tensor, alpha: Tensor, weight: Tensor | None, needs: list[str]
) -> list[Tensor]:
    _checked_backward(dy, x, alpha, weight, needs)
    made = raw.dynamic_tanh_backward(packed(dy), packed(x), alpha, packed(weight), tuple(needs))
    return [getattr(made, name) for name in needs]


def _fake_backward(
    dy: Tensor, x: Tensor, alpha: Tensor, weight: Tensor | None, needs: list[str]
) -> list[Tensor]:
    _checked_backward(dy, x, alpha, weight, needs)
    like = dict(zip(_GRADIENTS, (x, alpha, weight, weight), strict=True))
    return [x.new_empty(t.shape, dtype=t.dtype) for t in map(like.get, needs) if t is not None]


def _checked_backward(
    dy: Tensor, x: Tensor, alpha: Tensor, weight: Tensor | None, needs: list[str]
) -> None:
    _checked(x, alpha, weight, None)
    check_alike("dy", dy, x)
    check_needs(needs, dict(zip(_GRADIENTS, (x, alpha, weight, weight), strict=True)))


DYNAMIC_TANH_BACKWARD = Operator(
    "dynamic_tanh_backward(Tensor dy, Tensor x, Tensor alpha, Tensor? weight, str[] needs)"
    " -> Tensor[]",
    _run_backward,
    _fake_backward,
)
DYNAMIC_TANH = Operator(
    "dynamic_tanh(Tensor x, Tensor alpha, Tensor? weight, Tensor? bias) -> Tensor",
    _forward,
    _fake,
    setup=_setup,
    backward=_backward,
)


def dynamic_tanh(
    x: Tensor, alpha: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """``tanh(alpha · x) · weight + bias``, without statistics (Zhu et al., 2025).

    x (..., N); alpha of one element, on the device of x; weight, bias (N,) of one dtype, the bias
    only along with a weight. ±Inf gives ±weight + bias, NaN stays NaN.
    """
    y: Tensor = DYNAMIC_TANH(x, alpha, weight, bias)
    return y
