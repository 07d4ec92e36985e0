"""Families of timm: each becomes integer blocks near the float ones, or says why not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models import beit, vision_transformer
from torch import Tensor, nn

from qbench_fqvit import QuantTimmVitBlock, Scheme, reference
from qbench_fqvit.families import Unsupported, describe, find_blocks
from qbench_suite import ConversionError

FAMILIES = ("vit", "deit", "deit3", "dinov2", "siglip", "clip", "beit", "swin")


def block_inputs(model: nn.Module, names: list[str], x: Tensor) -> dict[str, Tensor]:
    """What each named block of the float model reads on ``x``."""
    seen: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: seen.__setitem__(name, inputs[0])
        )
        for name in names
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_a_description_computes_what_its_block_does(zoo: Any, family: str) -> None:
    model, x = zoo.model(family), zoo.images(family, 2)
    names = [name for name, _ in find_blocks(model) if "pool" not in name]
    assert len(names) >= 2
    for name, inputs in block_inputs(model, names, x).items():
        block = model.get_submodule(name)
        assert zoo.sqnr_db(block(inputs), describe(block)(inputs)) > 110


@pytest.mark.parametrize("family", FAMILIES)
def test_integer_branches_are_near_the_float_ones(zoo: Any, family: str) -> None:
    model, integer = zoo.model(family), zoo.converted(family)
    assert len(integer.blocks) == len([n for n, _ in find_blocks(model) if "pool" not in n])
    inputs = block_inputs(model, list(integer.blocks), zoo.images(family, 2, seed=9))
    for name, block in integer.blocks.items():
        codes = block.quantize_input(inputs[name])
        exact = block.float_stages(inputs[name])
        found = block.stages(codes)
        assert list(exact) == list(found)
        assert {k: v.shape for k, v in exact.items()} == {k: v.shape for k, v in found.items()}
        branch = exact["output"] - inputs[name]
        quantized = found["output"] - block.scales.value("input", codes)
        assert zoo.sqnr_db(branch, quantized) > 24, name
        # Every stage agrees, so none is compared in another unit or order.
        assert all(zoo.sqnr_db(exact[k], found[k]) > 23 for k in exact), name


@pytest.mark.parametrize(("softmax", "least"), [("uniform8", 27), ("lis4", 13), ("log8", 27)])
def test_attention_weights_are_near_the_float_ones(zoo: Any, softmax: str, least: int) -> None:
    # Windows of Swin hold masked tokens.
    integer = zoo.converted("swin", Scheme(softmax=softmax))
    inputs = block_inputs(zoo.model("swin"), list(integer.blocks), zoo.images("swin", 2, seed=9))
    unseen = 0
    for name, block in integer.blocks.items():
        codes = block.quantize_input(inputs[name])
        exact = block.float_stages(inputs[name])["softmax"]
        found = block.stages(codes)["softmax"]
        assert zoo.sqnr_db(exact, found) > least, name
        assert not found[exact == 0].any(), name
        unseen += int((exact == 0).sum())
        state = block.state_dict()
        assert np.array_equal(block(codes).numpy(), reference.run(state, codes.numpy())), name
    assert unseen > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_equals_the_oracle(zoo: Any, family: str) -> None:
    model, integer = zoo.model(family), zoo.converted(family)
    inputs = block_inputs(model, list(integer.blocks), zoo.images(family, 1, seed=9))
    for name, block in list(integer.blocks.items())[:2]:
        codes = block.quantize_input(inputs[name])
        state = block.state_dict()
        expected = reference.run(state, codes.numpy())
        assert np.array_equal(block(codes).numpy(), expected), name
        assert torch.equal(block.steps(codes)["output"], block(codes)), name
        assert torch.equal(QuantTimmVitBlock.from_state_dict(state)(codes), block(codes)), name


@pytest.mark.parametrize("family", FAMILIES)
def test_models_run_whole(zoo: Any, family: str) -> None:
    x = zoo.images(family, 2, seed=9)
    assert zoo.sqnr_db(zoo.model(family)(x), zoo.converted(family).module(x)) > 17


def test_a_bias_shared_by_all_blocks_is_taken_in(zoo: Any) -> None:
    model = zoo.randomized(
        beit.Beit(
            img_size=32,
            embed_dim=24,
            depth=2,
            num_heads=2,
            num_classes=3,
            use_rel_pos_bias=False,
            use_shared_rel_pos_bias=True,
        )
    )
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    from qbench_fqvit import convert

    integer = convert(model, [x])
    assert all(block.layout.bias_windows == 1 for block in integer.blocks.values())  # type: ignore[attr-defined]
    assert zoo.sqnr_db(model(x), integer.module(x)) > 20


def block(**kwargs: Any) -> nn.Module:
    return vision_transformer.Block(24, 2, **kwargs).eval()


def other(name: str, **kwargs: Any) -> nn.Module:
    made: nn.Module = getattr(vision_transformer, name)(24, 2, **kwargs)
    return made.eval()


def eva() -> nn.Module:
    model = timm.create_model("eva02_tiny_patch14_224", img_size=28, depth=1, num_classes=2)
    found: nn.Module = model.blocks[0]
    return found


class RmsNormed(vision_transformer.Block):
    """A subclass may compute anything."""


REFUSED: dict[str, tuple[Any, str]] = {
    "qk_norm": (lambda: block(qk_norm=True), "queries and keys"),
    "scale_attn_norm": (lambda: block(scale_attn_norm=True), "normalizes the context"),
    "scale_mlp_norm": (lambda: block(scale_mlp_norm=True), "normalizes within the MLP"),
    "swiglu": (lambda: block(mlp_layer=timm.layers.SwiGLU), "SwiGLU"),
    "glu": (lambda: block(mlp_layer=timm.layers.GluMlp), "GluMlp"),
    "rms_norm": (lambda: block(norm_layer=timm.layers.RmsNorm), "norm1 is RmsNorm, not LayerNorm"),
    "softmax_act": (lambda: block(act_layer=nn.Softmax), "not known to be elementwise"),
    "differential": (lambda: block(attn_layer="diff"), "DiffAttention"),
    "parallel": (lambda: other("ParallelScalingBlock"), "in parallel"),
    "parallel_things": (lambda: other("ParallelThingsBlock"), "in parallel"),
    "post_norm": (lambda: other("ResPostBlock"), "after attention and MLP"),
    "rope": (eva, "RoPE"),
    "pool": (lambda: timm.layers.AttentionPoolLatent(24, num_heads=2), "attention pooling"),
    "subclass": (lambda: RmsNormed(24, 2), "no block of ViT"),
    "torch": (lambda: nn.TransformerEncoderLayer(24, 2), "no block of ViT"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_block_says_why(name: str) -> None:
    make, reason = REFUSED[name]
    try:
        holder = nn.Sequential(make())
    except TypeError as error:
        pytest.skip(f"timm {timm.__version__} has no such block: {error}")
    assert [found for found, _ in find_blocks(holder)] == ["0"]
    with pytest.raises(Unsupported, match=reason):
        describe(holder[0])


def test_a_gated_attention_is_refused() -> None:
    gated = block()
    gated.attn.gate = nn.Linear(24, 24)  # type: ignore[union-attr]
    with pytest.raises(Unsupported, match="gated"):
        describe(gated)


def test_a_model_without_a_block_to_convert_is_refused() -> None:
    x = torch.randn(2, 5, 24)
    with pytest.raises(ConversionError, match=r"0: it normalizes queries and keys \(qk_norm\)"):
        QuantTimmVitBlock.from_float(block(qk_norm=True), [x])


def test_nothing_inside_a_block_is_found_again(zoo: Any) -> None:
    names = [name for name, _ in find_blocks(zoo.model("swin"))]
    assert names == [f"layers.{i}.blocks.{j}" for i in range(2) for j in range(2)]
