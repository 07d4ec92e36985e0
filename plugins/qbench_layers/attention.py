"""The quantized self-attention of timm's vision transformers."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qbench_layers.base import QuantLayer
from qbench_suite import Axes, Role

#: v is (B, heads, N, head_dim): its channels lie last, and attention sums over the keys before them.
_VALUE_AXES = Axes(channel=3, reduction=2, rows=3, tokens=(0, 1, 2))


class QuantAttention(QuantLayer):
    """``Q(softmax(Q(q) · Q(k)ᵀ · scale)) · Q(v)`` between the projections of timm's Attention.

    Roles: ``input`` for q, k and v (B, heads, N, head_dim), each along the axis that its product
    sums over: head_dim of q and k, the tokens N of v; ``act`` for the softmax (B, heads, N, N),
    along the keys. q is quantized after its norm and before it is scaled.

    The projections ``qkv`` and ``proj``, the norms and the gate are layers of their own: copies of
    whatever the float twin holds. The fused kernel serves wherever the float twin uses it and the
    softmax, which it never shows, is not quantized. A row whose keys are all masked gives NaN, as
    timm's own unfused attention does. Raises ``LayerError`` for another module.
    """

    float_types = (
        "timm.layers.attention.Attention",
        "timm.models.vision_transformer.Attention",
    )
    roles = (Role.INPUT, Role.ACT)

    qkv: nn.Module
    q_norm: nn.Module
    k_norm: nn.Module
    attn_drop: nn.Dropout
    norm: nn.Module
    gate: nn.Module | None
    proj: nn.Module
    proj_drop: nn.Module

    def take(self, module: Any) -> None:
        """Copies of the children, and the geometry."""
        self.num_heads: int = module.num_heads
        self.head_dim: int = module.head_dim
        self.attn_dim: int = self.num_heads * self.head_dim
        self.scale: float = module.scale
        self.fused_attn: bool = module.fused_attn
        self.gate = None
        for name, child in module.named_children():
            setattr(self, name, copy.deepcopy(child))

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """(B, N, dim) → (B, N, dim).

        ``attn_mask``: broadcasts to (B, heads, N, N); bool (True takes part), or added to scores.
        ``is_causal``: each token sees itself and those before it.
        """
        q, k, v = self._project(x)
        q = self.quantize(Role.INPUT, "q", q, axis=-1)
        k = self.quantize(Role.INPUT, "k", k, axis=-1)
        v = self.quantize(Role.INPUT, "v", v, axes=_VALUE_AXES)
        if self.fused_attn and Role.ACT not in self.quantizers:
            dropout = self.attn_drop.p if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, attn_mask, dropout, is_causal)
        else:
            y = self._attend(q, k, v, attn_mask, is_causal)
        y = self.norm(y.transpose(1, 2).reshape(*x.shape[:2], self.attn_dim))
        if self.gate is not None:
            y = y * self.gate(x).sigmoid()
        result: Tensor = self.proj_drop(self.proj(y))
        return result

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v, each (B, heads, N, head_dim)."""
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return self.q_norm(q), self.k_norm(k), v

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool
    ) -> Tensor:
        scores = _masked((q * self.scale) @ k.transpose(-2, -1), mask, is_causal)
        weights = scores.softmax(dim=-1)
        if self.fused_attn:  # a query without keys gives zeros there, and NaN in softmax
            weights = weights.masked_fill((scores == float("-inf")).all(-1, keepdim=True), 0.0)
        weights = self.quantize(Role.ACT, "softmax", weights, axis=-1)
        y: Tensor = self.attn_drop(weights) @ v
        return y


def _masked(scores: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    """Scores (B, heads, N, N) with −Inf where a key takes no part; causal goes before the mask."""
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, float("-inf"))
    return scores + mask
