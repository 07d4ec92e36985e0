"""The quantized twin of torch's multi-head attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qbench_layers.base import QuantLayer
from qbench_suite import Axes, LayerError, Role

#: v is (N, heads, S, head_dim): its channels lie last, and attention sums over the keys before them.
_VALUE_AXES = Axes(channel=3, reduction=2, rows=3, tokens=(0, 1, 2))


class QuantMultiheadAttention(QuantLayer):
    """``Q(y) · Q(W_out)ᵀ + b`` with ``y = Q(softmax(Q(q) · Q(k)ᵀ / √head_dim + mask)) · Q(v)``.

    q, k and v are Q(query), Q(key) and Q(value) projected by Q(W_in). Roles: ``weight`` for the
    projections, W_in (3 · E, E) as the one tensor that torch holds, or (E, E), (E, kdim) and (E, vdim);
    ``input`` for the tokens read, for q and k (N, heads, L, head_dim) along head_dim, for v along the
    keys, and for y (N, L, E); ``act`` for the softmax (N, heads, L, S), along the keys; ``output``
    only where a quantizer for it is given. Biases stay float.

    Arguments and results are torch's own: (output, weights), the weights None where they are not
    asked for. A query whose keys are all masked gives NaN with weights and zeros without, as torch
    has it. Raises ``LayerError`` for another module, and for ``is_causal`` without a mask.
    """

    float_types = ("torch.nn.MultiheadAttention",)
    roles = (Role.WEIGHT, Role.INPUT, Role.ACT)
    optional_roles = (Role.OUTPUT,)
    features = -1

    in_proj_weight: Tensor | None
    q_proj_weight: Tensor
    k_proj_weight: Tensor
    v_proj_weight: Tensor
    in_proj_bias: Tensor | None
    bias_k: Tensor | None
    bias_v: Tensor | None
    out_proj: Any

    def take(self, module: Any) -> None:
        """Projections, biases and geometry of ``module``."""
        self.embed_dim: int = module.embed_dim
        self.num_heads: int = module.num_heads
        self.head_dim: int = module.head_dim
        self.dropout: float = module.dropout
        self.batch_first: bool = module.batch_first
        self.add_zero_attn: bool = module.add_zero_attn
        # torch's encoder layer reads the weights past this layer, unless it takes them for separate.
        self._qkv_same_embed_dim = False
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            self.keep_weight(name, getattr(module, name))
        for name in ("in_proj_bias", "bias_k", "bias_v"):
            self.keep(name, getattr(module, name))
        self.keep_weight("out_proj.weight", module.out_proj.weight)
        self.keep("out_proj.bias", module.out_proj.bias)

    def forward(  # noqa: PLR0917 - torch's own signature
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(L, N, E), (N, L, E) where the batch comes first, or (L, E) → the same, and the weights.

        Masks are torch's: True, or −Inf, takes a key out; ``attn_mask`` (L, S) or (N · heads, L, S),
        ``key_padding_mask`` (N, S), or (S,) without a batch. ``is_causal`` says that ``attn_mask``
        is causal. Weights: (N, L, S), or (N, heads, L, S) unless averaged.
        """
        if is_causal and attn_mask is None:
            raise LayerError(
                "Causal attention takes its mask as attn_mask, which is_causal describes; got is_causal "
                "without one. Pass nn.Transformer.generate_square_subsequent_mask(length)."
            )
        q, k, v = self._heads(query, key, value)
        mask = self._mask(q, k, attn_mask, key_padding_mask)
        k, v = self._lengthen(k, v)
        if is_causal and key_padding_mask is None and not need_weights:
            # torch's fused kernel then goes by the hint, which hides what was appended to the keys.
            hidden = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
            mask = _added(hidden.triu(1), q.dtype)
        q = self.quantize(Role.INPUT, "q", q, axis=-1)
        k = self.quantize(Role.INPUT, "k", k, axis=-1)
        v = self.quantize(Role.INPUT, "v", v, axes=_VALUE_AXES)
        y, weights = self._attend(q, k, v, mask, need_weights)
        y = self.quantize(Role.INPUT, "attended", y.transpose(1, 2).flatten(2))
        y = _project(y, self.out_proj.weight, self.out_proj.bias)
        y = self._batch_back(self.quantize(Role.OUTPUT, "output", y), query)
        if weights is None or not need_weights:
            return y, None
        weights = weights.mean(dim=1) if average_attn_weights else weights
        return y, weights if query.dim() == 3 else weights.squeeze(0)

    def _heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v, each (N, heads, tokens, head_dim)."""
        tokens: dict[int, Tensor] = {}
        for name, x in (("query", query), ("key", key), ("value", value)):
            if id(x) not in tokens:
                tokens[id(x)] = self._batch_first(self.quantize(Role.INPUT, name, x))
        if self.in_proj_weight is not None and query is key is value:
            # One product, as in torch: three smaller ones may round otherwise.
            x = _project(tokens[id(query)], self.in_proj_weight, self.in_proj_bias)
            q, k, v = x.chunk(3, dim=-1)
            return self._split(q), self._split(k), self._split(v)
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            _project(tokens[id(x)], weight, bias)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        return self._split(q), self._split(k), self._split(v)

    def _split(self, x: Tensor) -> Tensor:
        """(N, tokens, E) → (N, heads, tokens, head_dim)."""
        return x.reshape(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    def _batch_first(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _batch_back(self, y: Tensor, query: Tensor) -> Tensor:
        """(N, L, E) in the layout of the query."""
        if query.dim() == 2:
            return y.squeeze(0)
        return y if self.batch_first else y.transpose(0, 1)

    def _lengthen(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append the learnt key and value to k and v, and the key and value of zeros."""
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self._split(self.bias_k).expand(len(k), -1, -1, -1)], dim=2)
            v = torch.cat([v, self._split(self.bias_v).expand(len(v), -1, -1, -1)], dim=2)
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        return k, v

    def _mask(
        self, q: Tensor, k: Tensor, attention: Tensor | None, padding: Tensor | None
    ) -> Tensor | None:
        """What is added to the scores: broadcasts to (N, heads, L, S); None where nothing is."""
        masks = []
        if attention is not None:
            shape = (-1, self.num_heads) if attention.dim() == 3 else (1, 1)
            masks.append(_added(attention, q.dtype).view(*shape, q.shape[2], k.shape[2]))
        if padding is not None:
            masks.append(_added(padding, q.dtype).view(len(q), 1, 1, k.shape[2]))
        if not masks:
            return None
        extra = (self.bias_k is not None) + self.add_zero_attn
        return F.pad(masks[0] if len(masks) == 1 else masks[0] + masks[1], (0, extra))

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """(N, heads, L, head_dim), and the weights unless the fused kernel, which has none, serves."""
        dropout = self.dropout if self.training else 0.0
        if not need_weights and Role.ACT not in self.quantizers:
            return F.scaled_dot_product_attention(q, k, v, mask, dropout), None
        scores = (q * math.sqrt(1 / self.head_dim)) @ k.transpose(-2, -1)
        scores = scores if mask is None else scores + mask
        weights = scores.softmax(dim=-1)
        if not need_weights:  # a query without keys gives zeros there, and NaN in softmax
            nothing = (scores == float("-inf")).all(-1, keepdim=True)
            weights = weights.masked_fill(nothing, 0.0)
        weights = F.dropout(self.quantize(Role.ACT, "softmax", weights, axis=-1), dropout)
        return weights @ v, weights


def _project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, tokens, E) → (N, tokens, features), in the order of rows that torch has: tokens first.

    The last bits of a row of a matrix product depend on where the row stands.
    """
    return F.linear(x.transpose(0, 1), weight, bias).transpose(0, 1)


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as what is added to scores: −Inf where a boolean one is True."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))
