"""The layers to compare with: each is the linear layer it claims to be, or says why it is not there."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from qbench_linears import LINEARS, quanto, torchao
from qbench_linears.compiled import uncompilable
from qbench_linears.dequantizing import DequantizingLinear
from qbench_suite import LayerError, LinearEntry

CPU = torch.device("cpu")
ENTRIES = {entry.name: entry for entry in LINEARS}


def linear(dtype: torch.dtype = torch.float32, features: int = 64, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(features, 48, bias=bias, dtype=dtype).requires_grad_(False)


@torch.no_grad()
def sqnr_db(reference: torch.Tensor, actual: torch.Tensor) -> float:
    noise = (actual.double() - reference.double()).square().sum()
    if not noise:
        return math.inf
    return float(10 * torch.log10(reference.double().square().sum() / noise))


def available(entry: LinearEntry) -> LinearEntry:
    if reason := entry.unavailable(CPU):
        pytest.skip(reason)
    return entry


CASES = [(entry, dtype) for entry in LINEARS for dtype in entry.dtypes]


@pytest.mark.filterwarnings("default")  # what other libraries warn of is theirs
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("entry", "dtype"), CASES, ids=[f"{e.name}-{d}" for e, d in CASES])
def test_a_layer_is_the_linear_layer(entry: LinearEntry, dtype: str, bias: bool) -> None:
    source = linear(getattr(torch, dtype), bias=bias)
    before = copy.deepcopy(source.state_dict())
    layer = available(entry).build(source)
    least = {"int8": 36.0, "bf16": 45.0, "fp32": 120.0}[entry.format]
    for rows in (1, 7):
        x = torch.randn(rows, 64, dtype=source.weight.dtype)
        with torch.no_grad():
            y = layer(x)
        assert (y.shape, y.dtype) == ((rows, 48), x.dtype)
        assert sqnr_db(source.float()(x.float()), y) > least
        source = source.to(x.dtype)
    assert type(source) is nn.Linear
    for name, tensor in before.items():
        assert torch.equal(source.state_dict()[name], tensor), "the float layer stays as it is"


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["dequantize", "torchao.int8wo", "quanto.int8"])
def test_codes_stand_for_the_weight(name: str) -> None:
    source = linear()
    layer = available(ENTRIES[name]).build(source)
    weight: Callable[[], torch.Tensor] = layer.dequantize
    assert sqnr_db(source.weight, weight()) > 40
    stored = {t.dtype for t in (*layer.parameters(), *layer.buffers())}
    assert name != "dequantize" or stored == {torch.int8, torch.float32}


def test_dequantizing_layer_scales_by_row() -> None:
    source = linear()
    source.weight[0] = 0
    source.weight[1] *= 1000
    layer = DequantizingLinear(source)
    assert float(layer.scale[0]) == 1, "a row of zeros"
    assert not layer.dequantize()[0].any()
    assert torch.equal(layer.codes.abs().amax(dim=1)[1:], torch.full((47,), 127, dtype=torch.int8))
    step = layer.scale / 2 * 1.0001
    assert ((layer.dequantize() - source.weight).abs() <= step).all()
    assert torch.equal(layer(torch.zeros(1, 64)), source.bias[None])


def test_names_are_unique_and_defaults_are_of_other_libraries() -> None:
    assert len(ENTRIES) == len(LINEARS)
    assert {e.name for e in LINEARS if e.default} == {"torchao.int8wo", "quanto.int8"}


@pytest.mark.parametrize(
    ("module", "reason"),
    [(torchao, "pip install torchao"), (quanto, "pip install optimum-quanto")],
    ids=["torchao", "quanto"],
)
def test_an_absent_library_says_how_to_get_it(
    module: object, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert reason in module.unavailable(CPU)  # type: ignore[attr-defined]


def test_optimum_without_quanto_is_no_quanto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: object() if name == "optimum" else None
    )
    assert quanto.unavailable(CPU)


@pytest.mark.parametrize("name", ["quanto.int8", "torchao.int8wo.compiled"])
def test_lengths_that_crash_a_kernel_are_refused(name: str) -> None:
    with pytest.raises(LayerError, match="takes multiples of 16 input features; got 60"):
        ENTRIES[name].build(linear(torch.bfloat16, features=60))


def test_a_machine_that_cannot_compile_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    assert "TORCHDYNAMO_DISABLE" in uncompilable(CPU)
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "install g++" in uncompilable(CPU)
    assert uncompilable(torch.device("cuda")) == ""
