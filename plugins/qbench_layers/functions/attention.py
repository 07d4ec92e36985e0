"""Scaled dot-product attention that a model calls."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from qbench_layers.functions.base import FunctionCall
from qbench_layers.functions.call import Call
from qbench_suite import Axes, Role


class AttentionFunction(FunctionCall):
    """``Q(softmax(Q(q) · Q(k)ᵀ · scale + mask)) · Q(v)`` of torch's scaled_dot_product_attention.

    Roles: ``input`` for q (…, L, E), k (…, S, E) and v (…, S, E'), each along the axis that its
    product sums over: E of q and k, S of v; ``act`` for the softmax (…, L, S), along the keys;
    ``output`` (…, L, E') only where a quantizer for it is given.

    The fused kernel serves unless the softmax, which it never shows, is quantized. A query whose keys
    are all masked gives zeros, as torch's fused kernels do. Left alone: a mask together with
    ``is_causal``, which torch refuses.
    """

    kind = "attention"
    functions = (
        "torch.nn.functional.scaled_dot_product_attention",
        "torch._C._nn.scaled_dot_product_attention",
    )
    roles = (Role.INPUT, Role.ACT)
    parameters = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    operands = ("query", "key", "value")

    @classmethod
    def reason(cls, call: Call) -> str:
        """Why torch itself would not run the call."""
        if call.get("attn_mask") is not None and call.get("is_causal", False):
            return "it has a mask and is_causal at once"
        return ""

    def compute(self, call: Call) -> Tensor:
        """The fused kernel, or attention step by step with its softmax quantized."""
        if Role.ACT not in self.quantizers:
            return super().compute(call)
        query, key, value = (call.get(name) for name in self.operands)
        if call.get("enable_gqa", False):
            key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
            value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
        scale = call.get("scale")
        scale = 1 / math.sqrt(query.size(-1)) if scale is None else scale
        scores = _masked(query @ key.transpose(-2, -1) * scale, call)
        weights = scores.softmax(dim=-1)
        nothing = (scores == float("-inf")).all(-1, keepdim=True)
        weights = self.quantize(Role.ACT, "softmax", weights.masked_fill(nothing, 0.0), axis=-1)
        y: Tensor = F.dropout(weights, call.get("dropout_p", 0.0)) @ value
        return y

    def operand(self, name: str, x: Tensor, call: Call) -> Tensor:
        """The operand, along the axis that its product sums over."""
        if name != "value":
            return self.quantize(Role.INPUT, name, x, axis=-1)
        last, keys = x.dim() - 1, x.dim() - 2
        axes = Axes(channel=last, reduction=keys, rows=last, tokens=tuple(range(last)))
        return self.quantize(Role.INPUT, name, x, axes=axes)

    def result_axes(self, y: Tensor, call: Call) -> Axes:
        """Features on the last axis."""
        return Axes.of_shape(tuple(y.shape), -1)


def _masked(scores: Tensor, call: Call) -> Tensor:
    """Scores (…, L, S) with −Inf where a key takes no part, or with the float mask added."""
    mask = call.get("attn_mask")
    if call.get("is_causal", False):
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is None:
        return scores
    return scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
