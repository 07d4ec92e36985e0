"""Quantized multi-head attention against torch's, and against attention computed by hand."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from qbench_layers import QuantMultiheadAttention
from qbench_suite import (
    Axes,
    LayerError,
    ModelEntry,
    Quantized,
    Quantizer,
    Role,
    default_manager,
    hookimpl,
)
from qbench_suite.engine import Engine, LayerCase, Settings
from qbench_suite.layers import replaces
from qbench_suite.results import LayerRow
from qbench_suite.timing import RoundTimer

QuantizerOf = Callable[[str], Quantizer]
E, HEADS, N, L, S = 24, 3, 2, 7, 5
HEAD_DIM = E // HEADS

MODULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False},
    "bias_kv": {"add_bias_kv": True},
    "zero_attn": {"add_zero_attn": True, "batch_first": True},
    "both": {"add_bias_kv": True, "add_zero_attn": True},
    "kdim": {"kdim": 10, "vdim": 14},
    "two heads": {"num_heads": 2, "batch_first": True},
}
MASKED = torch.arange(S).expand(L, S) > torch.arange(L).view(L, 1)
PADDED = torch.tensor([[False] * S, [False, True, True, False, True]])


def masks(heads: int) -> dict[str, dict[str, Any]]:
    """Every way to mask, True or −Inf for what takes no part."""
    several = torch.linspace(-2, 2, N * heads * L * S).view(N * heads, L, S)
    return {
        "free": {},
        "bool": {"attn_mask": MASKED},
        "float": {"attn_mask": torch.zeros(L, S).masked_fill(MASKED, -torch.inf)},
        "each head": {"attn_mask": several},
        "padding": {"key_padding_mask": PADDED},
        "float padding": {"key_padding_mask": PADDED.float() * -3},
        "both": {"attn_mask": MASKED, "key_padding_mask": PADDED},
        "causal": {"attn_mask": MASKED, "is_causal": True},
    }


def module(**options: Any) -> nn.MultiheadAttention:
    made = nn.MultiheadAttention(E, options.pop("num_heads", HEADS), **options).eval()
    for parameter in made.parameters():
        parameter.normal_(std=0.4)
    return made


def tokens(made: nn.MultiheadAttention, batched: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value in the layout of the module."""
    shapes = ((L, N, E), (S, N, made.kdim), (S, N, made.vdim))
    found = [torch.randn(shape) for shape in shapes]
    if not batched:
        found = [x[:, 0] for x in found]
    elif made.batch_first:
        found = [x.transpose(0, 1) for x in found]
    return found[0], found[1], found[2]


@pytest.mark.parametrize("mask", masks(1))
@pytest.mark.parametrize("wanted", ["none", "averaged", "each"])
@pytest.mark.parametrize("options", MODULES)
def test_without_quantizers_it_is_the_attention_of_torch(
    options: str, wanted: str, mask: str
) -> None:
    made = module(**MODULES[options])
    arguments = masks(made.num_heads)[mask]
    arguments |= {"need_weights": wanted != "none", "average_attn_weights": wanted == "averaged"}
    query, key, value = tokens(made)
    expected = made(query, key, value, **arguments)
    found = QuantMultiheadAttention.from_float(made, {})(query, key, value, **arguments)
    assert isinstance(found, tuple)
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-4)
    if wanted == "none":
        assert found[1] is expected[1] is None
    else:
        torch.testing.assert_close(found[1], expected[1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("options", ["plain", "batch first", "bias_kv"])
def test_tokens_need_no_batch(options: str) -> None:
    made = module(**MODULES[options])
    query, key, value = tokens(made, batched=False)
    padding = torch.tensor([False, True, False, False, True])
    for arguments in ({}, {"key_padding_mask": padding}, {"average_attn_weights": False}):
        expected = made(query, key, value, **arguments)
        found = QuantMultiheadAttention.from_float(made, {})(query, key, value, **arguments)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("wanted", [False, True])
def test_a_query_without_keys_gives_what_torch_gives(wanted: bool, quantizer: QuantizerOf) -> None:
    made = module()
    mask = torch.zeros(L, S, dtype=torch.bool)
    mask[2] = True
    arguments = {"attn_mask": mask, "need_weights": wanted}
    expected = made(*(inputs := tokens(made)), **arguments)[0]
    for quantizers in ({}, {Role.ACT: quantizer("fp32-tensor")}):
        found = QuantMultiheadAttention.from_float(made, quantizers)(*inputs, **arguments)[0]
        torch.testing.assert_close(found, expected, equal_nan=True, atol=1e-5, rtol=1e-4)
        assert found[2].isnan().all() == wanted


def by_hand(
    made: nn.MultiheadAttention, inputs: tuple[Tensor, Tensor, Tensor], q: Quantizer
) -> Tensor:
    """Everything quantized, one operation a line; batch first."""

    def on_grid(x: Tensor, axes: Axes) -> Tensor:
        return q.fake_quantize(x, axes).values

    last3, last4 = Axes(2, 2, 1, (0, 1)), Axes(3, 3, 2, (0, 1, 2))
    weight = on_grid(made.in_proj_weight, Axes(0, 1, 0, (0,)))
    projected = [
        on_grid(x, last3) @ weight[i * E : (i + 1) * E].T + made.in_proj_bias[i * E : (i + 1) * E]
        for i, x in enumerate(inputs)
    ]
    heads = [x.view(N, -1, HEADS, HEAD_DIM).transpose(1, 2) for x in projected]
    query, key = on_grid(heads[0], last4), on_grid(heads[1], last4)
    value = on_grid(heads[2], Axes(3, 2, 3, (0, 1, 2)))
    weights = on_grid((query @ key.mT / math.sqrt(HEAD_DIM)).softmax(-1), last4)
    attended = on_grid((weights @ value).transpose(1, 2).reshape(N, L, E), last3)
    out = made.out_proj
    return attended @ on_grid(out.weight, Axes(0, 1, 0, (0,))).T + out.bias


@pytest.mark.parametrize("name", ["fp8_e4m3-tensor", "int8-channel", "int8-token", "int8-chunk4"])
def test_it_attends_to_what_was_quantized_by_hand(name: str, quantizer: QuantizerOf) -> None:
    made = module(batch_first=True)
    q = quantizer(name)
    inputs = tokens(made)
    roles = dict.fromkeys((Role.WEIGHT, Role.INPUT, Role.ACT), q)
    found, _ = QuantMultiheadAttention.from_float(made, roles)(*inputs, need_weights=False)
    expected = by_hand(made, inputs, q)
    # Values next to a tie may be rounded either way, as the order of a sum has it.
    difference = (found - expected).abs()
    assert difference.median() < 1e-5
    assert difference.max() < 0.2


def test_everything_quantized_is_named_and_compliant(
    quantizer: QuantizerOf, assert_compliant: Callable[[Quantized], None]
) -> None:
    made = module(batch_first=True)
    layer = QuantMultiheadAttention.from_float(made, dict.fromkeys(Role, quantizer("int8-chunk5")))
    layer.record = True
    x = torch.randn(N, L, E)
    layer(x, x, x)
    records = list(layer.quantized_tensors())
    for record in records:
        assert_compliant(record)
    assert {r.name: tuple(r.result.scale.shape) for r in records} == {
        "in_proj_weight": (72, 5),
        "out_proj.weight": (24, 5),
        "query": (N, L, 5),
        "q": (N, HEADS, L, 2),
        "k": (N, HEADS, L, 2),
        "v": (N, HEADS, 2, HEAD_DIM),
        "softmax": (N, HEADS, L, 2),
        "attended": (N, L, 5),
        "output": (N, L, 5),
    }


def test_other_tokens_are_quantized_on_their_own(quantizer: QuantizerOf) -> None:
    made = module(kdim=10, vdim=14)
    layer = QuantMultiheadAttention.from_float(made, dict.fromkeys(Role, quantizer("int8-tensor")))
    layer.record = True
    layer(*tokens(made))
    names = [record.name for record in layer.quantized_tensors()]
    weights = ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]
    assert names[:4] == weights
    assert names[4:7] == ["query", "key", "value"]


@pytest.mark.parametrize("options", MODULES)
def test_a_state_dict_keeps_the_names_of_the_float_module(options: str) -> None:
    made = module(**MODULES[options])
    layer = QuantMultiheadAttention.from_float(made, {})
    before = made.state_dict()
    assert set(layer.state_dict()) == set(before)
    for parameter in layer.parameters():
        parameter.zero_()
    assert not any((value == 0).all() for value in before.values())


def test_dropout_is_that_of_the_mode() -> None:
    made = module(dropout=0.5).train()
    layer = QuantMultiheadAttention.from_float(made, {})
    inputs = tokens(made)
    torch.manual_seed(1)
    expected = made(*inputs)[1]
    torch.manual_seed(1)
    torch.testing.assert_close(layer(*inputs)[1], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(layer.eval()(*inputs), made.eval()(*inputs), atol=1e-5, rtol=1e-4)


def test_causal_attention_without_a_mask_is_an_error() -> None:
    made = module()
    with pytest.raises(LayerError, match=r"takes its mask as attn_mask.* got is_causal without"):
        QuantMultiheadAttention.from_float(made, {})(*tokens(made), is_causal=True)


def test_an_encoder_layer_of_torch_calls_it(quantizer: QuantizerOf) -> None:
    encoder = nn.TransformerEncoderLayer(E, 2, 32, batch_first=True).eval()
    x = torch.randn(N, L, E)
    expected = encoder(x)
    made = encoder.self_attn
    encoder.self_attn = QuantMultiheadAttention.from_float(made, {})
    torch.testing.assert_close(encoder(x), expected, atol=1e-5, rtol=1e-4)
    roles = dict.fromkeys(Role, quantizer("int4-tensor"))
    encoder.self_attn = layer = QuantMultiheadAttention.from_float(made, roles)
    layer.record = True
    assert (encoder(x) - expected).abs().max() > 0.01
    assert "softmax" in [record.name for record in layer.quantized_tensors()]


def test_the_attention_of_torchvision_is_replaced() -> None:
    model = torchvision.models.vit_b_16(weights=None).eval()
    block = model.encoder.layers[0]
    assert replaces(QuantMultiheadAttention, type(block.self_attention))
    x = torch.randn(1, 10, 768)
    expected = block(x)
    block.self_attention = QuantMultiheadAttention.from_float(block.self_attention, {})
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-4)


def test_half_precision_in_is_half_precision_out(quantizer: QuantizerOf) -> None:
    made = module().bfloat16()
    layer = QuantMultiheadAttention.from_float(made, dict.fromkeys(Role, quantizer("int8-token")))
    found, weights = layer(*(x.bfloat16() for x in tokens(made)))
    assert found.dtype == weights.dtype == torch.bfloat16


def test_a_layer_case_compares_its_output(quantizer: QuantizerOf) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(2)
            y: Tensor = self.attention(x, x, x, need_weights=False)[0].mean(1)
            return y

    manager = default_manager()
    guest = types.ModuleType("guest")
    entry = ModelEntry(name="m", build=Wrapped, input_size=(3, 4, 4), num_classes=16)
    guest.qbench_register_models = hookimpl(  # type: ignore[attr-defined]
        specname="qbench_register_models"
    )(lambda register: register(entry))
    manager.register(guest)
    engine = Engine(manager, Settings(batch=4))
    row = engine.run(LayerCase("m", "int8", "channel", "attention"), RoundTimer(1, 0))
    assert isinstance(row, LayerRow)
    assert row.outcome == "passed", row.reason
    assert row.quant_type == "QuantMultiheadAttention"
    assert {part.split("=")[0] for part in row.roles.split(";")} == {"weight", "input", "act"}
    assert row.compliant
    assert 20 < (row.sqnr_db or 0) < 60
