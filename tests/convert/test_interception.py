"""Every call of a forward has a name; quantized modules run outside of the function mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode, _get_current_function_mode_stack

from qbench_suite import Manager, Quantizer, Role
from qbench_suite.convert.functions import FunctionTable
from qbench_suite.convert.interception import CallKey, FunctionLayer, Interception, Visitor
from qbench_suite.convert.survey import survey
from qbench_suite.convert.swap import convert
from qbench_suite.scaling import compiling


class Names(Visitor):
    """Lists what was called, and in which modules."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.modules: list[str] = []

    def enter(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.modules.append(path)

    def leave(self, path: str, module: nn.Module, output: Any) -> None:
        self.modules.append(f"/{path}")

    def call(self, key: CallKey, function: Any, args: Any, kwargs: Any, run: Any) -> Any:
        self.calls.append(str(key))
        return run(*args, **kwargs)


class Forward(nn.Module):
    """A module that computes what it is given."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **children: nn.Module) -> None:
        super().__init__()
        self.compute = forward
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self, x)


def names(model: nn.Module, manager: Manager, x: Tensor | None = None) -> Names:
    found = Names()
    with Interception(model, FunctionTable(manager)).attached(found), torch.no_grad():
        model(torch.randn(2, 4, 4) if x is None else x)
    return found


CALLS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "operator +": (lambda x: x + x, ":add"),
    "torch.add": (lambda x: torch.add(x, x), ":add"),
    "add_": (lambda x: x.clone().add_(x), ":add"),
    "operator @": (lambda x: x @ x, ":matmul"),
    "torch.matmul": (lambda x: torch.matmul(x, x), ":matmul"),
    "torch.bmm": (lambda x: torch.bmm(x, x), ":matmul"),
    "F.relu": (lambda x: F.relu(x), ":relu"),
    "F.relu in place": (lambda x: F.relu(x.clone(), inplace=True), ":relu"),
    "x.softmax": (lambda x: x.softmax(-1), ":softmax"),
    "F.linear": (lambda x: F.linear(x, x[0]), ":linear"),
    "attention": (
        lambda x: F.scaled_dot_product_attention(x, x, x),
        ":scaled_dot_product_attention",
    ),
    "torch.cat": (lambda x: torch.cat([x, x]), ":cat"),
    "x.mean": (lambda x: x.mean(1), ":mean"),
}


@pytest.mark.parametrize("spelling", CALLS)
def test_call_is_named_after_its_kind(manager: Manager, spelling: str) -> None:
    call, name = CALLS[spelling]
    assert names(Forward(lambda _, x: call(x)), manager).calls[-1] == name


def test_metadata_and_whole_numbers_are_no_calls(manager: Manager) -> None:
    def forward(model: Any, x: Tensor) -> Tensor:
        assert x.size(0) == x.shape[0]
        index = torch.arange(x.shape[1], device=x.device) * 2
        assert index.dim() == 1
        return x

    assert names(Forward(forward), manager).calls == []


def test_further_calls_of_a_kind_are_numbered_within_one_run_of_a_module(manager: Manager) -> None:
    block = Forward(lambda _, x: F.relu(x + x + x))
    model = Forward(lambda m, x: m.block(m.block(x) + x) + x, block=block)
    assert names(model, manager).calls == [
        *("block:add", "block:add.2", "block:relu", ":add"),
        *("block:add", "block:add.2", "block:relu", ":add.2"),
    ]


def test_in_place_forms_count_with_the_others_of_their_kind(manager: Manager) -> None:
    def forward(model: Any, x: Tensor) -> Tensor:
        y = x + x
        y += x
        return y

    assert names(Forward(forward), manager).calls == [":add", ":add.2"]


def test_modules_are_entered_and_left_in_order(manager: Manager) -> None:
    model = nn.Sequential(nn.Tanh(), nn.Sequential(nn.ReLU()))
    assert names(model, manager).modules == [
        *("", "0", "/0", "1", "1.0", "/1.0", "/1", "/"),
    ]


def test_failed_forward_leaves_no_mode_and_no_hook(manager: Manager) -> None:
    def forward(model: Any, x: Tensor) -> Tensor:
        raise RuntimeError("on purpose")

    model = nn.Sequential(nn.ReLU(), Forward(forward))
    before = len(_get_current_function_mode_stack())
    with pytest.raises(RuntimeError, match="on purpose"):
        names(model, manager)
    assert len(_get_current_function_mode_stack()) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_exception_that_the_model_catches_does_not_shift_names(manager: Manager) -> None:
    def fail(_: Any, x: Tensor) -> Tensor:
        raise ValueError(str(x.sum()))

    inner = Forward(fail)

    def forward(model: Any, x: Tensor) -> Tensor:
        try:
            model.inner(x)
        except ValueError:
            x = x + x
        return x

    assert names(Forward(forward, inner=inner), manager).calls == ["inner:sum", ":add"]


def test_quantized_modules_run_outside_of_the_mode(manager: Manager, assigned: Any) -> None:
    model = Forward(lambda m, x: m.inner(x) + x, inner=nn.Linear(4, 4))
    found = survey(model, torch.randn(2, 4), manager)
    converted = convert(model, found, assigned(found))
    seen: list[object] = []
    layer = converted.layers["inner"]
    layer.watch = lambda _: seen.append(_get_current_function_mode())
    converted(torch.randn(2, 4))
    assert seen == [None]


def test_layer_of_a_call_runs_without_the_mode_and_writes_to_what_the_call_would(
    manager: Manager, assigned: Any
) -> None:
    def forward(model: Any, x: Tensor) -> Tensor:
        y = x * 2
        y.add_(x)  # what it returns is not used
        return y

    model = Forward(forward)
    x = torch.randn(2, 4)
    found = survey(model, x, manager)
    modes: list[object] = []
    converted = convert(model, found, assigned(found))
    converted.layers[":add"].watch = lambda _: modes.append(_get_current_function_mode())
    y = converted(x)
    torch.testing.assert_close(y, 3 * x, atol=0.1, rtol=0.1)
    assert not torch.equal(y, 3 * x)
    assert modes == [None, None]


def test_recorded_tensors_do_not_change_when_the_model_works_in_place(
    manager: Manager, assigned: Any
) -> None:
    def forward(model: Any, x: Tensor) -> Tensor:
        y = model.inner(x)
        y += x
        y.mul_(0)
        x.zero_()
        return y

    model = Forward(forward, inner=nn.ReLU())
    x = torch.rand(2, 4) + 1
    found = survey(model, x, manager)
    converted = convert(model, found, assigned(found))
    for layer in converted.layers.values():
        layer.record = True
    kept = x.clone()
    assert torch.equal(converted(x), torch.zeros(2, 4))
    for name in ("inner", ":add"):
        for tensor in converted.layers[name].quantized_tensors():
            assert tensor.result.values.abs().min() > 0, name
            assert tensor.source.abs().min() > 0, name
    assert torch.equal(next(converted.layers["inner"].quantized_tensors()).source, kept)


def test_call_that_does_not_fit_stays_float_at_its_site(
    make_manager: Callable[..., Manager], quantizer: Quantizer
) -> None:
    twin = next(e.function for e in make_manager().functions if e.name == "TinyAdd")
    layer = FunctionLayer(twin({Role.INPUT: quantizer}))
    x = torch.randn(3)
    assert not layer.misfits(torch.add, (x, x), {})
    assert layer.misfits(torch.add, (x, 1.0), {})
    assert layer.misfits(torch.add, (x, 2.0), {})


@pytest.mark.skipif(not compiling.compiler(), reason="kernels need a C++ compiler")
def test_conversion_compiles_no_kernel_anew(
    manager: Manager, assigned: Any, quantizer: Quantizer, compiled: None
) -> None:
    torch._dynamo.reset()
    model = Forward(lambda m, x: F.relu(m.inner(x) + x), inner=nn.Linear(8, 8))
    x = torch.randn(4, 8)
    found = survey(model, x, manager)
    quantizer.fake_quantize(x)
    before, failed = compiling.compiled_kernels(), compiling.failures()
    compilations = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    converted = convert(model, found, assigned(found))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compilations
    converted(x)
    converted(torch.randn(6, 8))
    assert compiling.compiled_kernels() == before
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compilations
    assert compiling.failures() == failed


def test_attaching_that_fails_leaves_no_hook(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Tanh())
    interception = Interception(model, FunctionTable(manager))
    hooks = interception._hooks

    def refuse(path: str, module: nn.Module) -> Any:
        if path == "1":
            raise RuntimeError("no hooks here")
        return hooks(path, module)

    monkeypatch.setattr(interception, "_hooks", refuse)
    with pytest.raises(RuntimeError, match="no hooks here"):
        interception.attach()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
