"""Families: which modules of timm are transformer blocks, and what each computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from qbench_fqvit.float_block import Affine, FloatBlock, Norm
from qbench_fqvit.windows import Windows

#: Elementwise activations, by class name, as timm and torch have several classes of one name.
_ACTIVATIONS = frozenset({
    "ELU", "GELU", "GELUTanh", "HardMish", "HardSigmoid", "HardSwish", "Hardsigmoid", "Hardswish",
    "Identity", "LeakyReLU", "Mish", "QuickGELU", "QuickGELUTanh", "ReLU", "ReLU6", "SiLU", "Sigmoid",
    "Swish", "Tanh",
})  # fmt: skip


class Unsupported(Exception):  # noqa: N818 - it is no error: the block stays float
    """A block that cannot run in integers; the message says why."""


def find_blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The outermost parts of ``model`` that look like a transformer block, by name."""
    found: list[str] = []
    for name, module in model.named_modules():
        inside = any(not outer or name.startswith(f"{outer}.") for outer in found)
        if not inside and (_holds_attention(module) or _is_attention_pool(module)):
            found.append(name)
            yield name, module


def _holds_attention(module: nn.Module) -> bool:
    names = {name for name, _ in module.named_children()}
    return bool(names & {"attn", "attns", "self_attn", "attn_drop", "attention"})


def _is_attention_pool(module: nn.Module) -> bool:
    return type(module).__name__.startswith(("AttentionPool", "RotAttentionPool"))


def describe(module: nn.Module) -> FloatBlock:
    """What a block of timm computes.

    ViT, DeiT, DeiT-3, DINOv2, SigLIP and CLIP (``vision_transformer.Block``), BEiT and Swin. Raises
    ``Unsupported`` for anything else.
    """
    from timm.models import beit, swin_transformer, vision_transformer

    if type(module) is vision_transformer.Block:
        return _vit(module)
    if type(module) is beit.Block:
        return _beit(module)
    if type(module) is swin_transformer.SwinTransformerBlock:
        return _swin(module)
    if _is_attention_pool(module):
        raise Unsupported("attention pooling is part of the head, which stays float")
    raise Unsupported(_why_not(module))


def _why_not(module: nn.Module) -> str:
    kind = type(module).__name__
    parts = {type(part).__name__ for part in module.modules()}
    if "EvaBlock" in kind or any("Rope" in part for part in parts):
        return f"{kind} rotates queries and keys (RoPE), for which there is no integer operator"
    if "Parallel" in kind:
        return f"{kind} runs attention and MLP in parallel, on one normalized input"
    if "Post" in kind:
        return f"{kind} normalizes after attention and MLP, not before"
    return f"{kind} is no block of ViT, DeiT, BEiT or Swin in timm"


def _vit(block: Any) -> FloatBlock:
    attention = block.attn
    # By name, as it has moved from one module of timm to another.
    if type(attention).__name__ != "Attention":
        raise Unsupported(f"its attention is {type(attention).__name__}, not timm's Attention")
    for name in ("q_norm", "k_norm"):
        _absent(attention, name, "it normalizes queries and keys (qk_norm)")
    _absent(attention, "norm", "it normalizes the context (scale_attn_norm)")
    _absent(attention, "gate", "its attention is gated")
    return _assembled(block, _affine(attention.qkv), _gamma(block, "ls1"), _gamma(block, "ls2"))


def _beit(block: Any) -> FloatBlock:
    attention = block.attn
    biases = (attention.q_bias, attention.k_bias, attention.v_bias)
    bias = None if attention.q_bias is None else torch.cat([b.detach() for b in biases])
    table = attention.relative_position_bias_table
    return replace(
        _assembled(block, _affine(attention.qkv, bias=bias), block.gamma_1, block.gamma_2),
        bias=None if table is None else attention._get_rel_pos_bias().detach().float(),
    )


def _swin(block: Any) -> FloatBlock:
    if getattr(block, "dynamic_mask", False):
        raise Unsupported("its mask follows the input's size (dynamic_mask)")
    bias = block.attn._get_rel_pos_bias().detach().float()
    if block.attn_mask is not None:
        # The finite mask of −100 stands for −∞.
        bias = bias + torch.where(block.attn_mask < 0, -torch.inf, 0.0)[:, None]
    return replace(
        _assembled(block, _affine(block.attn.qkv)),
        bias=bias,
        # Each window's mask belongs to its place on the map.
        windows=Windows(
            *block.window_size,
            *block.shift_size,
            *(() if block.attn_mask is None else block.input_resolution),
        ),
    )


def _assembled(
    block: Any, qkv: Affine, gamma1: Tensor | None = None, gamma2: Tensor | None = None
) -> FloatBlock:
    """The parts that blocks of every family have, the outputs of both branches scaled by gammas."""
    from timm.layers.mlp import Mlp

    attention, mlp = block.attn, block.mlp
    if type(mlp) is not Mlp:
        raise Unsupported(
            f"its MLP is {type(mlp).__name__}: only fc1, activation, fc2 has integer operators, "
            "no product of two activations (GLU, SwiGLU)"
        )
    _absent(mlp, "norm", "it normalizes within the MLP (scale_mlp_norm)")
    kind = type(mlp.act).__name__
    if kind not in _ACTIVATIONS:
        raise Unsupported(f"its activation {kind} is not known to be elementwise")
    return FloatBlock(
        norm1=_norm(block, "norm1"),
        qkv=qkv,
        proj=_affine(attention.proj, gamma1),
        norm2=_norm(block, "norm2"),
        fc1=_affine(mlp.fc1),
        act=mlp.act,
        fc2=_affine(mlp.fc2, gamma2),
        heads=int(attention.num_heads),
        scale=float(attention.scale),
    )


def _absent(module: nn.Module, name: str, reason: str) -> None:
    """Raise ``Unsupported`` where ``module`` has a part other than None and Identity."""
    part = getattr(module, name, None)
    if not (part is None or isinstance(part, nn.Identity)):
        raise Unsupported(reason)


def _gamma(block: nn.Module, name: str) -> Tensor | None:
    gamma: Tensor | None = getattr(getattr(block, name, None), "gamma", None)
    return gamma


def _norm(block: nn.Module, name: str) -> Norm:
    norm = getattr(block, name)
    if not isinstance(norm, nn.LayerNorm):
        raise Unsupported(f"{name} is {type(norm).__name__}, not LayerNorm")
    (channels,) = norm.normalized_shape
    gain = torch.ones(channels) if norm.weight is None else norm.weight.detach().float()
    bias = torch.zeros_like(gain) if norm.bias is None else norm.bias.detach().float()
    return Norm(gain, bias, norm.eps)


def _affine(
    linear: nn.Module, gamma: Tensor | None = None, *, bias: Tensor | None = None
) -> Affine:
    """``linear``, its outputs scaled by ``gamma`` (out,); ``bias`` replaces its own."""
    if type(linear) is not nn.Linear:
        raise Unsupported(f"a {type(linear).__name__} stands where a Linear is expected")
    weight = linear.weight.detach().float()
    own = linear.bias if bias is None else bias
    offset = weight.new_zeros(weight.shape[0]) if own is None else own.detach().float()
    if gamma is None:
        return Affine(weight, offset)
    gamma = gamma.detach().float()
    return Affine(weight * gamma[:, None], offset * gamma)
