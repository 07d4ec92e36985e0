"""The operators as PyTorch sees them: schemas, fake tensors, export, compilation, dispatch modes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from qbench_fqvit import ops
from qbench_suite import LayerError

INTEGERS = {torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool}

Operands = dict[str, tuple[Any, ...]]


@pytest.fixture
def operands(values: Any, table: Callable[..., Tensor]) -> Operands:
    """Small operands of each operator."""
    make = values(0)
    i8 = functools.partial(make.codes, "random")
    x, weight, acc, stream = i8(2, 5, 7), i8(6, 7), make.between(-999, 999, 2, 5, 6), i8(2, 5, 6)
    factors, bias = make.factors(6), make.between(-99, 99, 6)
    q, qkv = i8(4, 3, 5, 8), i8(4, 5, 3, 3, 8)
    mask = make.between(-9, 9, 2, 3, 5, 5)
    heads, out = make.between(2**29, 2**30, 3), make.factors(24)
    codes = make.between(0, 255, 4, 3, 5, 5, dtype=torch.uint8)
    shift = make.between(0, 4, 7, dtype=torch.int8)
    wide, lookup = (make.between(-99, 99, 7), make.between(-9, 9, 7)), i8(256)
    return {
        "layer_norm": (x, shift, *wide),
        "gemm": (x, weight, bias),
        "requantize": (acc, *factors, 3),
        "requantize_lookup": (acc, *factors, 3, lookup),
        "residual": (stream, acc, factors[0], *factors, 16),
        "linear_requantize": (x, weight, bias, *factors, 3, lookup),
        "linear_residual": (x, weight, None, stream, factors[0], *factors, 8),
        "scores": (q, q),
        "softmax_codes": (make.between(-999, 999, 4, 3, 5, 5), heads, 38, table(), mask, "log8"),
        "context": (codes, q, "uniform8"),
        "attention": (qkv, heads, 38, table(), mask, *out, "lis4"),
    }


NAMES = sorted(set(ops.__all__) - {"libraries", "reference"})


def test_operands_are_known_of_every_operator(operands: Operands) -> None:
    assert sorted(operands) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_registered_as_pytorch_wants_it(operands: Operands, name: str) -> None:
    torch.library.opcheck(getattr(torch.ops.qbench_fqvit, name), operands[name])


@pytest.mark.parametrize("name", NAMES)
def test_results_share_no_memory_with_operands(operands: Operands, name: str) -> None:
    got = getattr(ops, name)(*operands[name])
    places = [x.untyped_storage().data_ptr() for x in operands[name] if isinstance(x, Tensor)]
    assert got.untyped_storage().data_ptr() not in places


class Seen(TorchDispatchMode):
    """The types of all tensors that any operation takes or gives."""

    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in (*args, result) if isinstance(x, Tensor)]
        self.types |= {x.dtype for x in tensors}
        self.names.add(str(func))
        assert not any(isinstance(x, float) for x in args)
        return result


@pytest.mark.parametrize("name", NAMES)
def test_the_eager_operators_touch_no_float_either(operands: Operands, name: str) -> None:
    from qbench_fqvit.ops import eager

    with Seen() as seen:
        getattr(eager, name)(*operands[name])
    assert seen.types <= INTEGERS
    with Seen() as seen:
        getattr(ops, name)(*operands[name])
    assert seen.names == {f"qbench_fqvit.{name}.default"}


class Chain(torch.nn.Module):
    """A block's worth of operators."""

    def forward(self, x: Tensor, weight: Tensor, multiplier: Tensor, shift: Tensor) -> Tensor:
        channels = x.shape[-1]
        qkv = ops.linear_requantize(x, weight, None, multiplier, shift).unflatten(-1, (3, 2, -1))
        each = multiplier[:channels], shift[:channels]
        table = torch.arange(256, 0, -1, dtype=torch.int32)
        context = ops.attention(qkv, each[0][:2], 44, table, None, *each)
        return ops.linear_residual(context, weight[:channels], None, x, each[0], *each)


@pytest.fixture
def chain(values: Any) -> tuple[Tensor, ...]:
    make = values(2)
    x, weight = make.codes("random", 2, 5, 8), make.codes("random", 24, 8)
    return x, weight, make.between(2**30, 2**31 - 1, 24), make.between(36, 40, 24).to(torch.int8)


def test_export_keeps_the_operators(chain: tuple[Tensor, ...]) -> None:
    program = torch.export.export(Chain(), chain)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {f"qbench_fqvit.{name}.default" for name in ("attention", "linear_residual")} <= called
    values = [node.meta["val"] for node in program.graph.nodes if "val" in node.meta]
    assert {value.dtype for value in values if isinstance(value, Tensor)} <= INTEGERS
    assert torch.equal(program.module()(*chain), Chain()(*chain))


def test_export_with_a_free_batch(chain: tuple[Tensor, ...]) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Chain(), chain, dynamic_shapes=({0: batch}, None, None, None))
    more = (chain[0].repeat(3, 1, 1), *chain[1:])
    assert torch.equal(program.module()(*more), Chain()(*more))


def test_compiled_gives_the_same_bits(chain: tuple[Tensor, ...]) -> None:
    compiled = torch.compile(Chain(), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*chain), Chain()(*chain))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fake", [False, True], ids=["real", "fake"])
def test_a_float_tensor_is_refused(operands: Operands, name: str, fake: bool) -> None:
    with FakeTensorMode() if fake else torch.no_grad():
        given = [
            torch.empty_strided(x.shape, x.stride(), dtype=x.dtype) if isinstance(x, Tensor) else x
            for x in operands[name]
        ]
        for place, operand in enumerate(given):
            if isinstance(operand, Tensor):
                wrong = [*given[:place], operand.float(), *given[place + 1 :]]
                with pytest.raises(LayerError, match=r"computes on integers.*torch\.float32"):
                    getattr(ops, name)(*wrong)


@pytest.mark.parametrize("name", NAMES)
def test_another_shape_is_refused(operands: Operands, name: str) -> None:
    for place, operand in enumerate(operands[name]):
        if isinstance(operand, Tensor):
            wrong = [*operands[name][:place], operand[..., None], *operands[name][place + 1 :]]
            with pytest.raises(LayerError, match="got"):
                getattr(ops, name)(*wrong)


def test_values_that_no_operator_takes(operands: Operands) -> None:
    for name in ("residual", "linear_residual"):
        with pytest.raises(LayerError, match="bits one of"):
            getattr(ops, name)(*operands[name][:-1], 7)
    for name in ("softmax_codes", "context", "attention"):
        with pytest.raises(LayerError, match="uniform8, lis4, log8; got 'log4'"):
            getattr(ops, name)(*operands[name][:-1], "log4")
    scores, multiplier, _, *rest = operands["softmax_codes"]
    for shift in (0, 63):
        with pytest.raises(LayerError, match=f"shift 1 to 62; got {shift}"):
            ops.softmax_codes(scores, multiplier, shift, *rest)
    acc, *factors, _ = operands["requantize"]
    with pytest.raises(LayerError, match="zero_point"):
        ops.requantize(acc, *factors, 2**31)
    with pytest.raises(LayerError, match="2 windows for a batch of 3"):
        ops.softmax_codes(scores[:3], multiplier, 38, *rest)
    with pytest.raises(LayerError, match="at most 65536 products"):
        ops.gemm(torch.zeros(1, 65_537, dtype=torch.int8), torch.zeros(1, 65_537).to(torch.int8))
    empty = torch.zeros(2, 0, dtype=torch.int8)
    with pytest.raises(LayerError, match="one channel or more"):
        ops.layer_norm(empty, empty[0], empty[0].int(), empty[0].int())
