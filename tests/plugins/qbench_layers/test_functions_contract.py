"""What holds of every quantized function call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qbench_layers
from qbench_layers.functions import FUNCTIONS
from qbench_suite import QuantFunction, Quantized, Quantizer, Role
from qbench_suite.layers import resolve_function

QuantizerOf = Callable[[str], Quantizer]
IMAGE, TOKENS = (2, 6, 4, 5), (2, 7, 8)


@dataclass(frozen=True)
class Example:
    """A call: dotted function, shapes of its tensors, what else it is given."""

    function: str
    shapes: tuple[tuple[int, ...], ...] = (IMAGE,)
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    #: Keywords for tensors that are passed so, after the positional ones.
    named: tuple[str, ...] = ()

    def build(self, dtype: torch.dtype = torch.float32) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments with fresh tensors."""
        tensors = [torch.randn(shape).to(dtype) for shape in self.shapes]
        places = len(tensors) - len(self.named)
        keywords = dict(zip(self.named, tensors[places:], strict=True))
        return (*tensors[:places], *self.args), {**keywords, **self.kwargs}


T, NF = "torch.Tensor.", "torch.nn.functional."
TWO_IMAGES, GATED = (IMAGE, IMAGE), (IMAGE, (2, 6, 1, 1))
MATRICES = ((2, 3, 7, 8), (2, 3, 8, 5))
QUERIES = ((2, 3, 7, 8), (2, 3, 9, 8), (2, 3, 9, 4))
EXAMPLES = [
    Example("torch.add", TWO_IMAGES),
    Example("torch.add", TWO_IMAGES, kwargs={"alpha": 0.5}),
    Example("torch.add", TWO_IMAGES, named=("other",)),
    Example(T + "add", GATED),
    Example(T + "add_", GATED, kwargs={"alpha": 3}),
    Example(T + "__add__", TWO_IMAGES),
    Example(T + "__radd__", TWO_IMAGES),
    Example(T + "__iadd__", (IMAGE, (6, 4, 5))),
    Example("torch.mul", GATED),
    Example(T + "mul", GATED),
    Example(T + "mul_", GATED),
    Example(T + "__mul__", (TOKENS, (1, 7, 8))),
    Example(T + "__imul__", GATED),
    Example("torch.matmul", MATRICES),
    Example("torch.matmul", MATRICES, named=("other",)),
    Example(T + "__matmul__", ((2, 7, 8), (8,))),
    Example(T + "__rmatmul__", ((8, 5), (7, 8))),
    Example("torch.mm", ((7, 8), (8, 5)), named=("mat2",)),
    Example("torch.bmm", ((3, 7, 8), (3, 8, 5))),
    Example("torch.mv", ((7, 8), (8,))),
    Example("torch.addmm", ((5,), (7, 8), (8, 5)), kwargs={"beta": 0.5, "alpha": 2}),
    Example("torch.baddbmm", ((3, 7, 5), (3, 7, 8), (3, 8, 5)), named=("batch1", "batch2")),
    Example(T + "baddbmm_", ((3, 7, 5), (3, 7, 8), (3, 8, 5))),
    Example(NF + "linear", (TOKENS, (5, 8), (5,))),
    Example(NF + "linear", (TOKENS, (5, 8)), named=("weight",)),
    Example("torch.conv1d", ((2, 6, 9), (4, 3, 3)), (None, 2, 1, 1, 2)),
    Example(NF + "conv2d", (IMAGE, (6, 1, 3, 3)), kwargs={"padding": "same", "groups": 6}),
    Example(NF + "conv3d", ((2, 4, 5, 5, 5), (6, 4, 3, 3, 3), (6,))),
    Example(NF + "conv_transpose2d", (IMAGE, (6, 4, 2, 2)), (None, 2, 0, 0, 3)),
    Example(NF + "scaled_dot_product_attention", QUERIES),
    Example(NF + "scaled_dot_product_attention", QUERIES, kwargs={"is_causal": True}),
    Example(NF + "scaled_dot_product_attention", (*QUERIES, (7, 9)), named=("attn_mask",)),
    *(Example(NF + name) for name in ("relu", "relu6", "elu", "selu", "celu", "gelu", "silu")),
    *(Example(NF + name) for name in ("mish", "softplus", "hardswish", "hardsigmoid", "hardtanh")),
    *(Example(NF + n, kwargs={"inplace": True}) for n in ("relu", "silu", "hardswish", "elu")),
    Example(NF + "leaky_relu", args=(0.3, True)),
    Example(NF + "relu6", args=(True,)),
    Example(NF + "prelu", (IMAGE, (6,))),
    Example("torch.relu_"),
    Example(T + "sigmoid_"),
    Example("torch.sigmoid", (TOKENS,)),
    Example("torch.tanh", ((6,),)),
    Example(NF + "glu", args=(1,)),
    Example(NF + "softmax", kwargs={"dim": 1}),
    Example(T + "softmax", args=(-1,)),
    Example("torch.softmax", kwargs={"axis": 2}),
    Example(NF + "layer_norm", (TOKENS,), ((8,),)),
    Example(NF + "rms_norm", (TOKENS,), ((8,),)),
    Example(NF + "group_norm", args=(3,)),
    Example(NF + "instance_norm"),
    Example(NF + "batch_norm", (IMAGE,), (torch.zeros(6), torch.ones(6))),
    Example(NF + "max_pool2d", args=(2,)),
    Example(NF + "max_pool1d", ((2, 6, 9),), (2,)),
    Example(NF + "avg_pool2d", args=(2, 1)),
    Example(NF + "avg_pool1d", ((2, 6, 9),), (2,)),
    Example(NF + "adaptive_avg_pool2d", args=((1, None),)),
    Example(NF + "adaptive_max_pool1d", ((2, 6, 9),), (3,)),
    Example(T + "mean", args=((2, 3),)),
    Example("torch.mean", (TOKENS,), kwargs={"dim": 1, "keepdim": True}),
]
NAMES = [f"{i}-{example.function.rpartition('.')[2]}" for i, example in enumerate(EXAMPLES)]
every_example = pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)


def function_of(example: Example) -> Callable[..., Any]:
    found = resolve_function(example.function)
    assert found is not None
    return found


def twin_of(example: Example) -> type[QuantFunction]:
    (twin,) = (f for f in FUNCTIONS if function_of(example) in map(resolve_function, f.functions))
    return twin


def copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def floats(example: Example, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What the function itself gives, its arguments spared."""
    arguments = map(copied, args), {name: copied(value) for name, value in kwargs.items()}
    result: Tensor = function_of(example)(*arguments[0], **arguments[1])
    return result


def test_every_kind_has_an_example_and_is_registered() -> None:
    assert {twin_of(example) for example in EXAMPLES} == set(FUNCTIONS)
    registered: list[type[QuantFunction]] = []
    qbench_layers.qbench_register_functions(registered.append)
    assert tuple(registered) == FUNCTIONS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("channels_last", [False, True])
@every_example
def test_without_quantizers_it_is_the_function(
    example: Example, channels_last: bool, dtype: torch.dtype
) -> None:
    args, kwargs = example.build(dtype)
    if channels_last:
        args = tuple(
            a.to(memory_format=torch.channels_last) if isinstance(a, Tensor) and a.dim() == 4 else a
            for a in args
        )
    args = tuple(a.to(dtype) if isinstance(a, Tensor) else a for a in args)
    expected = floats(example, args, kwargs)
    twin = twin_of(example)
    assert twin.misfit(function_of(example), args, kwargs) == ""
    found = twin({}).call(function_of(example), args, kwargs)
    assert torch.equal(found, expected)
    assert (found.dtype, found.stride()) == (expected.dtype, expected.stride())


@pytest.mark.parametrize("name", ["fp8_e4m3-tensor", "int8-channel", "uint8-token", "int4-chunk3"])
@every_example
def test_what_is_quantized_is_compliant_and_arguments_stay_as_they_are(
    example: Example,
    name: str,
    quantizer: QuantizerOf,
    assert_compliant: Callable[[Quantized], None],
) -> None:
    args, kwargs = example.build()
    before = [copied(value) for value in (*args, *kwargs.values())]
    layer = twin_of(example)(dict.fromkeys(Role, quantizer(name)))
    layer.record = True
    y = layer.call(function_of(example), args, kwargs)
    assert y.shape == floats(example, args, kwargs).shape
    assert y.isfinite().all()
    records = list(layer.quantized_tensors())
    for record in records:
        assert_compliant(record)
    known = {*layer.roles, *layer.optional_roles}
    assert {record.role for record in records} <= known
    assert Role.INPUT in {record.role for record in records}
    assert len({record.name for record in records}) == len(records)
    for value, old in zip((*args, *kwargs.values()), before, strict=True):
        assert value is old if not isinstance(value, Tensor) else torch.equal(value, old)


@pytest.mark.parametrize("which", ["record", "observe"])
@every_example
def test_observed_tensors_stay_float_and_are_shown(
    example: Example, which: str, quantizer: QuantizerOf
) -> None:
    """What is observed and what is recorded go by the same names; weights are quantized already."""
    args, kwargs = example.build()
    layer = twin_of(example)(dict.fromkeys((Role.INPUT, Role.ACT), quantizer("int8-tensor")))
    seen: list[str] = []
    if which == "observe":
        layer.observe = lambda name, x, axes, q: seen.append(name)
        expected = floats(example, args, kwargs)
        torch.testing.assert_close(layer.call(function_of(example), args, kwargs), expected)
    names = set(seen)
    layer.observe, layer.record = None, True
    layer.call(function_of(example), args, kwargs)
    recorded = {record.name for record in layer.quantized_tensors()}
    assert recorded
    assert which == "record" or names == recorded


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "reason"),
    [
        (torch.add, (torch.ones(2, 3), 1), {}, "operand 'other' is a int, no tensor"),
        (torch.Tensor.__radd__, (torch.ones(2, 3), 0.5), {}, "is a float, no tensor"),
        (torch.add, (torch.ones(2, 3), torch.ones(2, 3)), {"out": torch.empty(2, 3)}, "out="),
        (torch.add, (torch.ones(2, 3, dtype=torch.int64),) * 2, {}, "torch.int64, not of floats"),
        (torch.add, (torch.ones(2, 3), torch.ones(2, 3).bool()), {}, "torch.bool"),
        (torch.add, (torch.ones(2, 3), torch.tensor(2.0)), {}, "single number"),
        (torch.add, (torch.ones(2, 3), torch.ones(1, 1)), {}, "single number"),
        (torch.add, (torch.ones(2, 3), torch.ones(3)), {}, "a vector"),
        (torch.add, (torch.ones(2, 3), torch.full((2, 3), float("-inf"))), {}, "masks"),
        (torch.mul, (torch.ones(2, 3), 2), {}, "no tensor"),
        (torch.mul, (torch.ones(2, 3), torch.ones(3)), {}, "a vector"),
        (torch.mul, (torch.ones(2, 3), nn.Parameter(torch.ones(()))), {}, "single number"),
        (torch.mul, (nn.Parameter(torch.ones(2, 3)),) * 2, {}, "multiplies parameters"),
        (torch.softmax, (torch.ones(2, 3, dtype=torch.int32), -1), {}, "torch.int32"),
        (F.softmax, (torch.ones(2, 3),), {}, "names no axis"),
        (torch.einsum, ("i,i->i", torch.ones(3), torch.ones(3)), {}, "sums over 0 axes"),
        (torch.einsum, ("i,j,k->ijk", *[torch.ones(3)] * 3), {}, "3 operands"),
        (torch.einsum, ("ii,ij->j", torch.ones(3, 3), torch.ones(3, 3)), {}, "diagonal"),
        (F.max_pool2d, (torch.ones(1, 1, 4, 4), 2), {"return_indices": True}, "indices"),
        (F.adaptive_max_pool2d, (torch.ones(1, 1, 4, 4), 2, True), {}, "indices"),
        (torch.mean, (torch.ones(2, 3),), {}, "no pool"),
        (torch.mean, (torch.ones(2, 3, 4), -1), {}, "no pool"),
        (torch.mean, (torch.ones(2, 3, 4, 5), (1, 3)), {}, "no pool"),
        (F.batch_norm, (torch.ones(2, 3), None, None), {"training": True}, "training"),
        (F.instance_norm, (torch.ones(2, 3, 4), torch.ones(3), torch.ones(3)), {}, "statistics"),
        (
            F.scaled_dot_product_attention,
            (torch.ones(2, 3, 4),) * 3,
            {"attn_mask": torch.ones(3, 3), "is_causal": True},
            "at once",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_call_that_is_left_alone_says_why(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], reason: str
) -> None:
    (twin,) = (f for f in FUNCTIONS if function in map(resolve_function, f.functions))
    assert reason in twin.misfit(function, args, kwargs)


@pytest.mark.parametrize("name", ["fp8_e4m3-tensor", "int8-channel", "int8-token", "int8-chunk4"])
@pytest.mark.parametrize("function", ["add", "mul", "sigmoid", "softmax", "matmul", "linear"])
def test_empty_tensors_give_empty_results(function: str, name: str, quantizer: QuantizerOf) -> None:
    called = F.linear if function == "linear" else getattr(torch, function)
    (twin,) = (f for f in FUNCTIONS if f.kind == function)
    others = {"matmul": torch.ones(3, 2), "linear": torch.ones(2, 3), "softmax": -1}
    x = torch.empty(0, 3)
    args = (x,) if function == "sigmoid" else (x, others.get(function, x))
    layer = twin(dict.fromkeys(Role, quantizer(name)))
    assert layer.call(called, args, {}).shape == called(*args).shape


@pytest.mark.parametrize("function", [torch.add, torch.relu, torch.sigmoid, torch.mul])
def test_nan_stays_nan(function: Callable[..., Any], quantizer: QuantizerOf) -> None:
    (twin,) = (f for f in FUNCTIONS if function in map(resolve_function, f.functions))
    x = torch.tensor([[float("nan"), -1.0, 2.0]])
    args = (x, torch.ones(1, 3)) if len(twin.operands) == 2 else (x,)
    y = twin(dict.fromkeys(Role, quantizer("int8-tensor"))).call(function, args, {})
    assert y.isnan().tolist() == [[True, False, False]]
