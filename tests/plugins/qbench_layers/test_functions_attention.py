"""Quantized scaled dot-product attention against the formula of torch's documentation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from qbench_formats import FORMATS
from qbench_layers.functions.attention import AttentionFunction
from qbench_modes import MODES
from qbench_suite import Axes, Quantizer, Role

QuantizerOf = Callable[[str], Quantizer]
SDPA = F.scaled_dot_product_attention
OVER_LAST = Axes(channel=3, reduction=3, rows=2, tokens=(0, 1, 2))
OVER_KEYS = Axes(channel=3, reduction=2, rows=3, tokens=(0, 1, 2))
MASKS: dict[str, dict[str, Any]] = {
    "free": {},
    "causal": {"is_causal": True},
    "bool": {"attn_mask": torch.arange(9) > torch.arange(7).view(7, 1)},
    "no keys": {"attn_mask": torch.arange(9).expand(7, 9) > 8 - torch.arange(7).view(7, 1) * 3},
    "float": {"attn_mask": torch.linspace(-3, 3, 63).view(7, 9)},
    "each head": {"attn_mask": torch.linspace(-3, 3, 378).view(2, 3, 7, 9)},
    "scale": {"scale": 0.3},
}


def tokens(*shape: int) -> Tensor:
    return torch.randn(shape)


def by_hand(
    q: Tensor, k: Tensor, v: Tensor, quantizers: dict[Role, Quantizer], **options: Any
) -> Tensor:
    """The documented formula, one step a line, in float64 between the quantizers."""

    def on_grid(role: Role, x: Tensor, axes: Axes) -> Tensor:
        chosen = quantizers.get(role)
        return x.double() if chosen is None else chosen.fake_quantize(x, axes).values.double()

    q, k = on_grid(Role.INPUT, q, OVER_LAST), on_grid(Role.INPUT, k, OVER_LAST)
    v = on_grid(Role.INPUT, v, OVER_KEYS)
    scores = q @ k.mT * options.get("scale", 1 / math.sqrt(q.shape[-1]))
    mask = options.get("attn_mask", torch.zeros(scores.shape[-2:]))
    if options.get("is_causal"):
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    weights = torch.nan_to_num((scores + mask).softmax(-1)).float()
    return (on_grid(Role.ACT, weights, OVER_LAST) @ v).float()


@pytest.mark.parametrize("roles", [(Role.INPUT,), (Role.ACT,), (Role.INPUT, Role.ACT)])
@pytest.mark.parametrize("name", ["fp8_e4m3-tensor", "int8-channel", "int8-token", "int8-chunk4"])
@pytest.mark.parametrize("mask", MASKS)
def test_it_attends_to_what_was_quantized_by_hand(
    mask: str, name: str, roles: tuple[Role, ...], quantizer: QuantizerOf
) -> None:
    q, k, v = tokens(2, 3, 7, 8), tokens(2, 3, 9, 8), tokens(2, 3, 9, 4)
    quantizers = dict.fromkeys(roles, quantizer(name))
    found = AttentionFunction(quantizers).call(SDPA, (q, k, v), MASKS[mask])
    expected = by_hand(q, k, v, quantizers, **MASKS[mask])
    # A weight next to a tie may be rounded either way: a step of the coarsest of the formats.
    step = 0.0 if Role.ACT not in roles else 0.07
    torch.testing.assert_close(found, expected, atol=1e-5 + step, rtol=1e-4)
    assert (found - expected).abs().median() < 1e-5


@given(
    st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5),
    st.sampled_from(["free", "causal", "bool", "float"]), st.booleans(),
)  # fmt: skip
def test_step_by_step_it_is_the_fused_kernel(
    heads: int, queries: int, keys: int, size: int, values: int, mask: str, grouped: bool
) -> None:
    """A quantizer that changes nothing makes it go step by step."""
    (fp32,) = (format for format in FORMATS if format.name == "fp32")
    (tensor,) = (mode for mode in MODES if mode.name == "tensor")
    options: dict[str, Any] = {"is_causal": mask == "causal", "enable_gqa": grouped}
    if mask == "bool":
        options["attn_mask"] = torch.rand(queries, keys) > 0.5
    elif mask == "float":
        options["attn_mask"] = torch.randn(2, 1, queries, keys)
    q = tokens(2, heads * (2 if grouped else 1), queries, size)
    k, v = tokens(2, heads, keys, size), tokens(2, heads, keys, values)
    layer = AttentionFunction({Role.ACT: Quantizer(fp32, tensor)})
    found = layer.call(SDPA, (q, k, v), options)
    torch.testing.assert_close(found, SDPA(q, k, v, **options), atol=1e-5, rtol=1e-4)


def test_scale_shapes_are_those_of_the_attention_layer(quantizer: QuantizerOf) -> None:
    layer = AttentionFunction(dict.fromkeys(Role, quantizer("int8-chunk5")))
    layer.record = True
    layer.call(SDPA, (tokens(2, 3, 7, 8),) * 3, {})
    shapes = {r.name: tuple(r.result.scale.shape) for r in layer.quantized_tensors()}
    assert shapes == {
        "query": (2, 3, 7, 2),
        "key": (2, 3, 7, 2),
        "value": (2, 3, 2, 8),
        "softmax": (2, 3, 7, 2),
        "output": (2, 3, 7, 2),
    }


def test_dropout_is_that_of_the_call(quantizer: QuantizerOf) -> None:
    layer = AttentionFunction({Role.ACT: quantizer("fp32-tensor")})
    q = tokens(1, 1, 50, 8)
    ones = torch.ones(1, 1, 50, 1)
    kept = layer.call(SDPA, (q, q, ones), {"dropout_p": 0.5})
    assert kept.std() > 0.01
    assert 0.8 < kept.mean() < 1.2
    assert torch.allclose(layer.call(SDPA, (q, q, ones), {}), torch.ones(()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_is_half_precision_out(
    dtype: torch.dtype, quantizer: QuantizerOf
) -> None:
    layer = AttentionFunction(dict.fromkeys(Role, quantizer("fp8_e4m3-token")))
    q = tokens(1, 2, 5, 8).to(dtype)
    found = layer.call(SDPA, (q, q, q), {})
    assert found.dtype == dtype
    torch.testing.assert_close(found, SDPA(q, q, q), atol=0.25, rtol=0.1)
