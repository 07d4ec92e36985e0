"""Every product and every activation that a model calls as a function arrives at a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from qbench_layers.functions import FUNCTIONS
from qbench_suite import QuantFunction
from qbench_suite.layers import resolve_function

TWINS = {
    resolve_function(dotted): function for function in FUNCTIONS for dotted in function.functions
}
#: Functions that multiply and add, or activate, by the name torch has for them.
COMPUTES = {
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "bilinear", "bmm", "chain_matmul", "conv1d",
    "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "dot", "einsum",
    "elu", "gelu", "glu", "hardsigmoid", "hardswish", "hardtanh", "inner", "leaky_relu", "linear",
    "matmul", "mish", "mm", "mv", "outer", "prelu", "relu", "relu6", "scaled_dot_product_attention",
    "selu", "sigmoid", "silu", "softmax", "softplus", "tanh", "tensordot", "vdot",
}  # fmt: skip


class Listener(TorchFunctionMode):
    """Lists the functions that are called, and the reasons why calls are left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: list[str] = []
        self.names: list[str] = []
        self.missed: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        self.names.append(name)
        twin: type[QuantFunction] | None = TWINS.get(func)
        if twin is not None and not twin.misfit(func, args, kwargs):
            self.kinds.append(twin.kind)
        elif name.strip("_") in COMPUTES:
            self.missed.append(name)
        return func(*args, **kwargs)


def x() -> Tensor:
    return torch.randn(2, 3, 4, 4)


def in_place(a: Tensor, b: Tensor) -> Tensor:
    a += b
    return a


SPELLINGS: dict[str, tuple[str, Callable[[], object]]] = {
    "a + b": ("add", lambda: x() + x()),
    "a += b": ("add", lambda: in_place(x(), x())),
    "a.add_(b)": ("add", lambda: x().add_(x())),
    "torch.add(a, b)": ("add", lambda: torch.add(x(), x(), alpha=2)),
    "a.__radd__(b)": ("add", lambda: x().__radd__(x())),
    "a * b": ("mul", lambda: x() * x()),
    "a.mul(b)": ("mul", lambda: x().mul(x())),
    "torch.mul(a, b)": ("mul", lambda: torch.mul(x(), other=x())),
    "a @ b": ("matmul", lambda: x() @ x()),
    "a.__rmatmul__(b)": ("matmul", lambda: x().__rmatmul__(x())),
    "torch.bmm(a, b)": ("matmul", lambda: torch.bmm(x()[0], x()[0])),
    "torch.einsum": ("matmul", lambda: torch.einsum("nchw,ncwk->nchk", x(), x())),
    "torch.baddbmm": ("matmul", lambda: torch.baddbmm(x()[0], x()[0], x()[0])),
    "a.softmax(-1)": ("softmax", lambda: x().softmax(-1)),
    "F.softmax": ("softmax", lambda: F.softmax(x(), dim=-1)),
    "torch.softmax": ("softmax", lambda: torch.softmax(x(), -1)),
    "F.gelu": ("gelu", lambda: F.gelu(x(), approximate="tanh")),
    "F.silu": ("silu", lambda: F.silu(x(), inplace=True)),
    "nn.Hardswish": ("hardswish", lambda: nn.Hardswish()(x())),
    "nn.ReLU6": ("hardtanh", lambda: nn.ReLU6()(x())),
    "F.relu6": ("relu6", lambda: F.relu6(x())),
    "a.relu_()": ("relu", lambda: x().relu_()),
    "torch.sigmoid": ("sigmoid", lambda: torch.sigmoid(x())),
    "F.tanh": ("tanh", lambda: F.tanh(x())),
    "F.leaky_relu": ("leaky_relu", lambda: F.leaky_relu(x(), 0.2)),
    "F.prelu": ("prelu", lambda: F.prelu(x(), torch.ones(3))),
    "F.linear": ("linear", lambda: F.linear(x(), torch.ones(5, 4))),
    "F.conv2d": ("conv", lambda: F.conv2d(x(), torch.ones(5, 3, 1, 1))),
    "F.conv_transpose2d": (
        "conv_transpose",
        lambda: F.conv_transpose2d(x(), torch.ones(3, 5, 2, 2)),
    ),
    "F.scaled_dot_product_attention": (
        "attention",
        lambda: F.scaled_dot_product_attention(x(), x(), x()),
    ),
    "F.layer_norm": ("layer_norm", lambda: F.layer_norm(x(), (4,))),
    "F.rms_norm": ("rms_norm", lambda: F.rms_norm(x(), (4,))),
    "F.group_norm": ("group_norm", lambda: F.group_norm(x(), 3)),
    "F.instance_norm": ("instance_norm", lambda: F.instance_norm(x())),
    "F.batch_norm": ("batch_norm", lambda: F.batch_norm(x(), torch.zeros(3), torch.ones(3))),
    "F.max_pool2d": ("max_pool", lambda: F.max_pool2d(x(), 2)),
    "F.avg_pool2d": ("avg_pool", lambda: F.avg_pool2d(x(), 2)),
    "F.adaptive_avg_pool2d": ("adaptive_avg_pool", lambda: F.adaptive_avg_pool2d(x(), 1)),
    "F.adaptive_max_pool2d": ("adaptive_max_pool", lambda: F.adaptive_max_pool2d(x(), 1)),
    "a.mean((2, 3))": ("mean", lambda: x().mean((2, 3), keepdim=True)),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_arrives_at_its_kind(spelling: str) -> None:
    kind, call = SPELLINGS[spelling]
    with Listener() as listener:
        call()
    assert listener.kinds == [kind]


def test_every_function_named_exists_and_belongs_to_one_class() -> None:
    named = [dotted for function in FUNCTIONS for dotted in function.functions]
    assert [dotted for dotted in named if resolve_function(dotted) is None] == []
    for function in FUNCTIONS:
        for dotted in function.functions:
            assert TWINS[resolve_function(dotted)] is function, dotted
    kinds = [function.kind for function in FUNCTIONS]
    assert len(set(kinds)) == len(kinds)


MODELS: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "torchvision swin_t": (
        lambda: torchvision.models.swin_t(weights=None),
        {"add", "linear", "matmul", "softmax", "gelu", "layer_norm"},
    ),
    "torchvision convnext": (
        lambda: torchvision.models.convnext_tiny(weights=None),
        {"add", "mul", "conv", "linear", "gelu"},
    ),
    "torchvision mobilenet_v3": (
        lambda: torchvision.models.mobilenet_v3_small(weights=None),
        {"add", "mul", "conv", "hardswish", "hardsigmoid", "relu"},
    ),
    "timm swin": (
        lambda: timm.create_model("swin_tiny_patch4_window7_224"),
        {"add", "linear", "matmul", "softmax", "gelu"},
    ),
    "timm convnext": (
        lambda: timm.create_model("convnext_atto"),
        {"add", "mul", "conv", "linear", "gelu"},
    ),
    "timm levit": (
        lambda: timm.create_model("levit_128s"),
        {"add", "matmul", "softmax", "hardswish", "linear"},
    ),
    "timm maxvit": (
        lambda: timm.create_model("coatnet_nano_rw_224"),
        {"add", "mul", "attention", "sigmoid", "silu"},
    ),
    "timm botnet": (
        lambda: timm.create_model("botnet26t_256", img_size=224),
        {"matmul", "add", "softmax"},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_product_and_activation_of_a_model_arrives(name: str) -> None:
    build, kinds = MODELS[name]
    model = build().eval()
    with Listener() as listener:
        model(torch.randn(1, 3, 224, 224))
    assert not listener.missed
    assert kinds <= set(listener.kinds)


def test_torchvision_vit_attends_in_its_multihead_attention_alone() -> None:
    model = torchvision.models.vit_b_16(weights=None).eval()
    model.encoder.layers = model.encoder.layers[:2]
    with Listener() as listener:
        model(torch.randn(1, 3, 224, 224))
    assert not listener.missed
    assert listener.names.count("multi_head_attention_forward") == 2
    # The position embedding, and two residual sums a block.
    assert listener.kinds.count("add") == 5
