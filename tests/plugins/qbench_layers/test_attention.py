"""Quantized attention against attention computed by hand, and against timm's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers import Attention
from torch import Tensor, nn

from qbench_layers import QuantAttention, QuantLinear
from qbench_suite import Axes, Quantizer, Role

QuantizerOf = Callable[[str], Quantizer]
BATCH, TOKENS, DIM, HEADS = 2, 7, 24, 3
HEAD_DIM = DIM // HEADS

OVER_LAST = Axes(channel=3, reduction=3, rows=2, tokens=(0, 1, 2))
OVER_TOKENS = Axes(channel=3, reduction=2, rows=3, tokens=(0, 1, 2))

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "qk_norm": {"qk_norm": True, "norm_layer": nn.LayerNorm},
    "gated": {"gated": True, "scale_norm": True, "norm_layer": nn.LayerNorm, "dim_out": 10},
}
MASKS: dict[str, dict[str, Any]] = {
    "free": {},
    "causal": {"is_causal": True},
    "bool": {"attn_mask": torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril(2)},
    "float": {"attn_mask": torch.linspace(-3, 3, TOKENS * TOKENS).view(TOKENS, TOKENS)},
}


def attention(fused: bool, **options: Any) -> Attention:
    """timm's attention over DIM features."""
    module = Attention(DIM, HEADS, qkv_bias=True, **options).eval()
    module.fused_attn = fused
    return module


def by_hand(module: Attention, x: Tensor, roles: dict[Role, Quantizer]) -> Tensor:
    """The formula of the docstring, one operation a line."""

    def quantized(role: Role, tensor: Tensor, axes: Axes) -> Tensor:
        return roles[role].fake_quantize(tensor, axes).values if role in roles else tensor

    qkv = module.qkv(x).view(BATCH, TOKENS, 3, HEADS, HEAD_DIM)
    q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
    q = quantized(Role.INPUT, module.q_norm(q), OVER_LAST)
    k = quantized(Role.INPUT, module.k_norm(k), OVER_LAST)
    v = quantized(Role.INPUT, v, OVER_TOKENS)
    weights = quantized(Role.ACT, (q * HEAD_DIM**-0.5 @ k.transpose(-1, -2)).softmax(-1), OVER_LAST)
    return module.proj((weights @ v).transpose(1, 2).reshape(BATCH, TOKENS, DIM))


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "explicit"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("options", OPTIONS)
def test_without_quantizers_it_is_the_attention_of_timm(
    fused: bool, mask: str, options: str
) -> None:
    module = attention(fused, **OPTIONS[options])
    x = torch.randn(BATCH, TOKENS, DIM)
    found = QuantAttention.from_float(module, {})(x, **MASKS[mask])
    assert torch.equal(found, module(x, **MASKS[mask]))


@pytest.mark.parametrize("mask", MASKS)
def test_the_explicit_attention_matches_the_fused_one(mask: str, quantizer: QuantizerOf) -> None:
    module = attention(True, **OPTIONS["qk_norm"])
    x = torch.randn(BATCH, TOKENS, DIM)
    found = QuantAttention.from_float(module, {Role.ACT: quantizer("fp32-tensor")})(
        x, **MASKS[mask]
    )
    torch.testing.assert_close(found, module(x, **MASKS[mask]))


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "explicit"])
@pytest.mark.parametrize("name", ["fp8_e4m3-tensor", "int8-channel", "int8-token", "int8-chunk5"])
@pytest.mark.parametrize(
    "roles", [(Role.INPUT,), (Role.ACT,), (Role.INPUT, Role.ACT)], ids=["input", "act", "both"]
)
def test_it_attends_to_what_was_quantized_by_hand(
    fused: bool, name: str, roles: tuple[Role, ...], quantizer: QuantizerOf
) -> None:
    module = attention(fused, **OPTIONS["qk_norm"])
    quantizers = dict.fromkeys(roles, quantizer(name))
    x = torch.randn(BATCH, TOKENS, DIM)
    found = QuantAttention.from_float(module, quantizers)(x)
    torch.testing.assert_close(found, by_hand(module, x, quantizers))


@pytest.mark.parametrize(
    ("mode", "q", "v", "softmax"),
    [
        ("tensor", (1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)),
        ("channel", (1, 1, 1, 8), (1, 1, 1, 8), (1, 1, 1, 7)),
        ("token", (2, 3, 7, 1), (2, 3, 7, 1), (2, 3, 7, 1)),
        ("chunk5", (2, 3, 7, 2), (2, 3, 2, 8), (2, 3, 7, 2)),
        ("mx32", (2, 3, 7, 1), (2, 3, 1, 8), (2, 3, 7, 1)),
    ],
)
def test_scale_shapes(
    mode: str,
    q: tuple[int, ...],
    v: tuple[int, ...],
    softmax: tuple[int, ...],
    quantizer: QuantizerOf,
) -> None:
    roles = dict.fromkeys(Role, quantizer(f"int8-{mode}"))
    layer = QuantAttention.from_float(attention(True), roles)
    layer.record = True
    layer(torch.randn(BATCH, TOKENS, DIM))
    shapes = {r.name: tuple(r.result.scale.shape) for r in layer.quantized_tensors()}
    assert shapes == {"q": q, "k": q, "v": v, "softmax": softmax}


def test_projections_stay_what_they_are(quantizer: QuantizerOf) -> None:
    module = attention(False)
    roles = {Role.WEIGHT: quantizer("int8-channel")}
    module.qkv = QuantLinear.from_float(module.qkv, roles)
    layer = QuantAttention.from_float(module, roles)
    assert type(layer.qkv) is QuantLinear
    assert type(layer.proj) is nn.Linear
    x = torch.randn(BATCH, TOKENS, DIM)
    assert torch.equal(layer(x), module(x))


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "explicit"])
def test_dropout_is_that_of_the_mode(fused: bool) -> None:
    module = attention(fused, attn_drop=0.5).train()
    layer = QuantAttention.from_float(module, {})
    x = torch.randn(BATCH, TOKENS, DIM)
    torch.manual_seed(1)
    expected = module(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), expected)
    assert torch.equal(layer.eval()(x), module.eval()(x))
