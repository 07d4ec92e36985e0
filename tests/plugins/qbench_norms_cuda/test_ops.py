"""Norms as functions of torch: gradients, operations of torch.library, compiled, exported, transformed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from qbench_norms_cuda import ops
from qbench_norms_cuda.ops.operator import Operator
from qbench_norms_cuda.ops.quantized import QUANTIZED_ROW_NORM
from qbench_norms_cuda.ops.rows import ROW_NORM, ROW_NORM_BACKWARD
from qbench_suite import KernelError, ulp_errors

Function = Callable[..., Any]


def tensors(
    device: torch.device, *shapes: tuple[int, ...], dtype: Any = torch.float32
) -> list[Tensor]:
    """Normal values that ask for gradients."""
    generator = torch.Generator().manual_seed(5)
    drawn = (torch.randn(shape, generator=generator) for shape in shapes)
    return [values.to(device, dtype).requires_grad_() for values in drawn]


def rms(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def layer(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, bias, 1e-5 if weight is not None else 1e-6)


def modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return layer(x) * (1 + scale) + shift


def gated(x: Tensor, residual: Tensor, gate: Tensor, scale: Tensor, shift: Tensor) -> Any:
    total = residual + gate * x
    return modulated(total, scale, shift), total


def normed_weight(v: Tensor, g: Tensor) -> Tensor:
    return g * v / v.flatten(1).norm(dim=1).reshape(g.shape)


def normed_heads(q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor) -> Any:
    return rms(q, q_weight), rms(k, k_weight)


@dataclass(frozen=True)
class Differentiable:
    """A function of tensors, the same in torch's own operations, and shapes of its tensors."""

    name: str
    function: Function
    torchs: Function
    shapes: tuple[tuple[int, ...], ...]


N, B, T = 300, 2, 3
ROWS, VECTOR, IMAGE = (3, 4, N), (N,), (B, T, N)
SCALE_BY_BATCH, SHIFT_BY_BATCH = (IMAGE, (B, 1, N), IMAGE), (IMAGE, IMAGE, (B, 1, N))
FUNCTIONS = [
    Differentiable("layer_norm", ops.layer_norm, layer, (ROWS, VECTOR, VECTOR)),
    Differentiable("rms_norm", ops.rms_norm, rms, (ROWS, VECTOR)),
    Differentiable(
        "rms_norm_offset",
        lambda x, w: ops.rms_norm(x, w, weight_offset=1.0),
        lambda x, w: rms(x, 1 + w),
        (ROWS, VECTOR),
    ),
    Differentiable(
        "add_layer_norm",
        ops.add_layer_norm,
        lambda x, r, w, b: (layer(x + r, w, b), x + r),
        (ROWS, ROWS, VECTOR, VECTOR),
    ),
    Differentiable(
        "add_rms_norm",
        ops.add_rms_norm,
        lambda x, r, w: (rms(x + r, w), x + r),
        (ROWS, ROWS, VECTOR),
    ),
    Differentiable(
        "adaptive_by_batch", ops.adaptive_layer_norm, modulated, (IMAGE, (B, 1, N), (B, 1, N))
    ),
    Differentiable("adaptive_by_token", ops.adaptive_layer_norm, modulated, (IMAGE, IMAGE, IMAGE)),
    Differentiable("adaptive_scale_by_batch", ops.adaptive_layer_norm, modulated, SCALE_BY_BATCH),
    Differentiable("adaptive_shift_by_batch", ops.adaptive_layer_norm, modulated, SHIFT_BY_BATCH),
    Differentiable(
        "gated_scale_by_batch",
        ops.gated_adaptive_layer_norm,
        gated,
        (IMAGE, IMAGE, *SCALE_BY_BATCH),
    ),
    Differentiable(
        "gated_by_batch", ops.gated_adaptive_layer_norm, gated, (IMAGE, IMAGE, *[(B, 1, N)] * 3)
    ),
    Differentiable("gated_by_token", ops.gated_adaptive_layer_norm, gated, (IMAGE,) * 5),
    Differentiable("weight_norm", ops.weight_norm, normed_weight, ((6, 8, 3, 3), (6, 1, 1, 1))),
    Differentiable(
        "dynamic_tanh",
        ops.dynamic_tanh,
        lambda x, a, w, b: torch.tanh(a * x) * w + b,
        (ROWS, (1,), VECTOR, VECTOR),
    ),
    Differentiable(
        "qk_norm", ops.qk_norm, normed_heads, ((B, 4, T, N), (B, 2, T, N), VECTOR, VECTOR)
    ),
]
EACH = pytest.mark.parametrize("case", FUNCTIONS, ids=[case.name for case in FUNCTIONS])


def outputs_of(made: Any) -> tuple[Tensor, ...]:
    return made if isinstance(made, tuple) else (made,)


def incoming(outputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Gradients of outputs, their last two axes the other way round in memory."""
    generator = torch.Generator().manual_seed(6)
    drawn = (torch.randn(y.shape, generator=generator).to(y) for y in outputs)
    return [g.mT.contiguous().mT for g in drawn]


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_are_those_of_the_formula(
    case: Differentiable, dtype: torch.dtype, device: torch.device
) -> None:
    given = tensors(device, *case.shapes, dtype=dtype)
    exact = [value.detach().double().requires_grad_() for value in given]
    outputs, expected = outputs_of(case.function(*given)), outputs_of(case.torchs(*exact))
    seeds = incoming(outputs)
    found = torch.autograd.grad(outputs, given, seeds, retain_graph=True)
    again = torch.autograd.grad(outputs, given, seeds)
    references = torch.autograd.grad(expected, exact, [seed.double() for seed in seeds])
    # A sum of rounded totals, and products of rounded gradients, are counted with a gate.
    most = 40.0 if dtype == torch.float32 else 4.0
    for value, gradient, second, reference in zip(given, found, again, references, strict=True):
        assert (gradient.shape, gradient.dtype) == (value.shape, value.dtype)
        assert torch.equal(gradient, second)
        errors = ulp_errors(gradient, reference)
        assert errors.nonfinite == 0
        assert errors.max_ulp <= most


@EACH
def test_a_gradient_of_one_input_alone(case: Differentiable, device: torch.device) -> None:
    """As with frozen weights, or a frozen network below."""
    given = tensors(device, *case.shapes)
    outputs = outputs_of(case.function(*given))
    seeds = incoming(outputs)
    together = torch.autograd.grad(outputs, given, seeds)
    for place, expected in enumerate(together):
        frozen = [v.detach().requires_grad_(at == place) for at, v in enumerate(given)]
        outputs = outputs_of(case.function(*frozen))
        (alone,) = torch.autograd.grad(
            outputs, [frozen[place]], seeds, allow_unused=False, retain_graph=False
        )
        torch.testing.assert_close(alone, expected, rtol=1e-6, atol=1e-6)


def test_an_expanded_gradient(device: torch.device) -> None:
    x, w = tensors(device, ROWS, VECTOR)
    ops.rms_norm(x, w).sum().backward()
    assert w.grad is not None
    expected = (x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-6).rsqrt()).sum(
        (0, 1)
    )
    torch.testing.assert_close(w.grad.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_gradient_of_the_sum_alone(device: torch.device) -> None:
    x, residual, w = tensors(device, ROWS, ROWS, VECTOR)
    _, total = ops.add_rms_norm(x, residual, w)
    dx, dw = torch.autograd.grad(total.sum(), (x, w))
    assert torch.equal(dx, torch.ones_like(x))
    assert torch.equal(dw, torch.zeros_like(w))


@EACH
def test_compiled_it_computes_the_same_bits(case: Differentiable, device: torch.device) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(case.function, fullgraph=True, backend="aot_eager")
    given = tensors(device, *case.shapes)
    eager = outputs_of(case.function(*given))
    found = outputs_of(compiled(*given))
    for y, expected in zip(found, eager, strict=True):
        assert torch.equal(y, expected)
        assert y.stride() == expected.stride()
    seeds = incoming(eager)
    for gradient, expected in zip(
        torch.autograd.grad(found, given, seeds),
        torch.autograd.grad(eager, given, seeds),
        strict=True,
    ):
        assert torch.equal(gradient, expected)


@pytest.mark.slow
def test_compiled_by_inductor(device: torch.device) -> None:
    torch._dynamo.reset()

    def block(x: Tensor, residual: Tensor, w: Tensor) -> Tensor:
        y, total = ops.add_rms_norm(x * 2, residual, w)
        return torch.relu(y) + total

    given = tensors(device, ROWS, ROWS, VECTOR)
    found = torch.compile(block, fullgraph=True)(*given)
    torch.testing.assert_close(found, block(*given))
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), given), torch.autograd.grad(block(*given).sum(), given)
    )


def test_exported_it_is_one_operation(device: torch.device) -> None:
    class Norm(torch.nn.Module):
        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            return ops.rms_norm(x, weight)

    x, w = (value.detach() for value in tensors(device, ROWS, VECTOR))
    program = torch.export.export(Norm(), (x, w))
    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert called[0] is torch.ops.qbench_norms.row_norm.default
    assert torch.equal(program.module()(x, w), ops.rms_norm(x, w))


def operations(device: torch.device) -> list[tuple[Operator, tuple[Any, ...]]]:
    """Every operation of rows and heads, with arguments."""
    x, residual, w, b = tensors(device, (4, N), (4, N), VECTOR, VECTOR)
    image, gate, other = tensors(device, IMAGE, (B, 1, N), IMAGE)
    rstd = torch.rand(4, device=device) + 0.5
    none = (None,) * 4
    plain = x.detach(), w.detach()
    codes = (plain[0], "rms", 1e-6, plain[1], None, 0.0)
    return [
        (ROW_NORM, (x, "layer", 1e-5, w, b, 0.0, *none)),
        (ROW_NORM, (x, "rms", 1e-5, w, None, 1.0, residual, *none[1:])),
        (ROW_NORM, (image, "layer", 1e-5, None, None, 0.0, other, gate, gate, gate)),
        (ROW_NORM, (x, "l2", 0.0, w[:4], None, 0.0, *none)),
        (QUANTIZED_ROW_NORM, (*codes, *none, "int8", "token", None)),
        (
            QUANTIZED_ROW_NORM,
            (*codes, plain[0], *none[1:], "fp8_e4m3", "static", torch.ones(1, device=device)),
        ),
        (QUANTIZED_ROW_NORM, (*codes, *none, "fp8_e4m3", "mx32", None)),
        (
            ROW_NORM_BACKWARD,
            (
                plain[0],
                residual.detach(),
                "rms",
                None,
                rstd,
                plain[1],
                0.0,
                None,
                None,
                ["dx", "dweight"],
            ),
        ),
    ]


@pytest.mark.parametrize("place", range(8))
def test_torchs_own_checks_of_an_operation(place: int, device: torch.device) -> None:
    operator, arguments = operations(device)[place]
    results = torch.library.opcheck(operator.overload, arguments)
    assert set(results.values()) == {"SUCCESS"}


def test_the_operation_computes_what_the_function_does(device: torch.device) -> None:
    for operator, arguments in operations(device):
        direct, dispatched = operator(*arguments), operator.overload(*arguments)
        for y, expected in zip(direct, dispatched, strict=False):
            if y is not None:
                assert torch.equal(y, expected)


def test_without_data_it_has_the_shapes(device: torch.device) -> None:
    with FakeTensorMode():
        x = torch.empty(7, 300, dtype=torch.float16)
        codes, scales, total = ops.quantized_rms_norm(x, residual=x, mode="chunk128")
    assert (codes.shape, codes.dtype) == ((7, 300), torch.float8_e4m3fn)
    assert (scales.shape, scales.dtype) == ((7, 3), torch.float32)
    assert (total.shape, total.dtype) == ((7, 300), torch.float16)


def test_saved_statistics_may_be_strided(device: torch.device) -> None:
    x, dy, w = (value.detach() for value in tensors(device, (4, N), (4, N), VECTOR))
    saved = torch.rand(2, 4, device=device)
    run = torch.ops.qbench_norms.row_norm_backward
    rest = (w, 0.0, None, None, ["dx", "dweight"])
    strided = (value.expand(2, 4).t().contiguous().t()[0] for value in saved)
    expected = run(dy, x, "layer", *saved, *rest)
    for gradient, other in zip(run(dy, x, "layer", *strided, *rest), expected, strict=True):
        assert torch.equal(gradient, other)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_it_can_be_mapped_over_an_axis(device: torch.device) -> None:
    x = tensors(device, (3, 2, N))[0].detach()
    assert torch.equal(torch.func.vmap(ops.rms_norm)(x), ops.rms_norm(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_a_gradient_that_it_has_not_is_an_error_and_never_left_out(device: torch.device) -> None:
    x, w = tensors(device, (4, N), VECTOR)
    (dx,) = torch.autograd.grad(ops.rms_norm(x, w).square().sum(), x, create_graph=True)
    with pytest.raises(KernelError, match="no gradients of their own"):
        (dx.square().sum() + x.sum()).backward()
    plain = x.detach()
    with pytest.raises(KernelError, match="forward-mode"):
        torch.func.jvp(ops.rms_norm, (plain,), (plain,))
    _, _, total = ops.quantized_rms_norm(x, w, residual=x)
    with pytest.raises(KernelError, match="codes have no gradient"):
        total.sum().backward()


@pytest.mark.parametrize("place", range(3))
def test_a_second_gradient_is_an_error_by_whatever_it_is_asked_for(
    place: int, device: torch.device
) -> None:
    """Where nothing used leads there, torch would say None, which is taken for 0."""
    given = tensors(device, (4, N), VECTOR, (4, N))
    x, w, dy = given
    (dx,) = torch.autograd.grad(ops.rms_norm(x, w), x, dy, create_graph=True)
    with pytest.raises(KernelError, match="no gradients of their own"):
        torch.autograd.grad(dx.sum(), given[place], allow_unused=True)


def test_a_view_of_the_other_sign(device: torch.device) -> None:
    """Its memory has the sign of what it is a view of."""
    x, w, dy = (value.detach() for value in tensors(device, (4, N), VECTOR, (4, N)))
    other = [torch._neg_view(-values) for values in (x, w, dy)]
    alpha = torch.complex(w[:1], -w[:1]).conj().imag
    assert all(values.is_neg() for values in (*other, alpha))
    assert torch.equal(ops.dynamic_tanh(x, alpha), ops.dynamic_tanh(x, w[:1]))
    assert torch.equal(ops.rms_norm(other[0], w), ops.rms_norm(x, w))
    assert torch.equal(ops.rms_norm(x, other[1]), ops.rms_norm(x, w))
    plain = [x.requires_grad_(), w.requires_grad_()]
    expected = torch.autograd.grad(ops.rms_norm(*plain), plain, dy)
    viewed = [values.requires_grad_() for values in other[:2]]
    for inputs in (plain, viewed):
        found = torch.autograd.grad(ops.rms_norm(*inputs), inputs, other[2])
        for gradient, reference in zip(found, expected, strict=True):
            assert torch.equal(gradient, reference)


def test_a_static_scale_that_is_none(device: torch.device) -> None:
    """The table of docs/explanation/norms/quantized.md: nobody waits for the device to refuse it."""
    x = torch.tensor([[0.0, 1.0, -1.0, 3.0] * 4], device=device)

    def codes(scale: float, format: str) -> Tensor:
        given = torch.tensor([scale], device=device)
        found, _ = ops.quantized_rms_norm(x, mode="static", format=format, scale=given)
        return found.float().nan_to_num(nan=-999.0)[0, :4]

    for format, largest, of_nan in (("fp8_e4m3", 448.0, -999.0), ("int8", 127.0, 0.0)):
        of_zero = torch.tensor([of_nan, largest, -largest, largest], device=device)
        assert torch.equal(codes(0.0, format), of_zero)
        assert torch.equal(codes(-0.5, format), -codes(0.5, format))
        assert torch.equal(codes(torch.nan, format), torch.full_like(of_zero, of_nan))
        assert torch.equal(codes(-torch.inf, format), torch.zeros_like(of_zero))


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_traced_it_is_one_operation(device: torch.device) -> None:
    x, w, other = (value.detach() for value in tensors(device, (4, N), VECTOR, (4, N)))
    traced = torch.jit.trace(ops.rms_norm, (x, w))
    assert [node.kind() for node in traced.graph.nodes()].count("qbench_norms::row_norm") == 1
    assert torch.equal(traced(-other, w), ops.rms_norm(-other, w))


def test_autocast_changes_nothing(device: torch.device) -> None:
    (x,) = tensors(device, (4, N))
    with torch.autocast(device.type, torch.bfloat16):
        assert ops.rms_norm(x).dtype == torch.float32
        assert ops.rms_norm(x.bfloat16()).dtype == torch.bfloat16


def test_no_rows_give_no_rows_and_gradients_of_zero(device: torch.device) -> None:
    x = torch.empty(0, 3, N, device=device, requires_grad=True)
    w, b, a = tensors(device, VECTOR, VECTOR, (1,))
    for y in (ops.layer_norm(x, w, b), ops.dynamic_tanh(x, a, w, b)):
        assert y.shape == x.shape
        gradients = torch.autograd.grad(y.sum(), (x, w, b))
        assert [g.shape for g in gradients] == [x.shape, w.shape, b.shape]
        assert not any(g.any() for g in gradients)
    codes, scales = ops.quantized_rms_norm(x.detach(), w.detach())
    assert codes.shape == x.shape
    assert scales.shape == (0, 3, 1)


def test_axes_in_any_order_and_weights_of_another_dtype(device: torch.device) -> None:
    base = tensors(device, (N, 4, 3), dtype=torch.float16)[0].detach()
    w, b = (value.detach() for value in tensors(device, VECTOR, VECTOR))
    x = base.permute(2, 1, 0)  # the last axis strided
    y = ops.layer_norm(x, w, b)
    assert y.dtype == torch.float16
    assert y.is_contiguous()
    assert ulp_errors(y, layer(x.double(), w.double(), b.double())).max_ulp <= 1


def test_rows_of_a_wider_tensor_are_not_copied(device: torch.device) -> None:
    wide, w, b = (value.detach() for value in tensors(device, (5, 2 * N), VECTOR, VECTOR))
    x = wide[:, N // 2 : N // 2 + N]
    assert torch.equal(ops.layer_norm(x, w, b), ops.layer_norm(x.contiguous(), w, b))
    strided = w.new_zeros(2 * N)[::2].copy_(w)
    assert torch.equal(ops.rms_norm(x, strided), ops.rms_norm(x, w))
