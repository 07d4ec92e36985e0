"""Whole models: codes between neighbouring blocks, saved and restored, refused where they must be."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from qbench_fqvit import QuantLinear, convert, get_quantized_layers, restore
from qbench_suite import ConversionError


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def chain(zoo: Any) -> nn.Sequential:
    """Two blocks in a row, a norm, and one more."""
    blocks = [zoo.randomized(Block(24, 2, qkv_bias=True), seed) for seed in range(3)]
    return nn.Sequential(blocks[0], blocks[1], nn.LayerNorm(24), blocks[2])


def test_neighbours_pass_codes_on(chain: nn.Sequential) -> None:
    x = noise(4, 9, 24)
    module = convert(chain, [x]).module
    seen: list[torch.dtype] = []
    for part in module:  # type: ignore[attr-defined]
        part.register_forward_hook(lambda _, inputs, out: seen.append(out.dtype))
    module(x)
    assert seen == [torch.int8, torch.float32, torch.float32, torch.float32]
    assert torch.equal(module[0].block.scales.output, module[1].block.scales.input)  # type: ignore[index, union-attr]


def test_a_block_whose_output_is_used_twice_gives_floats(chain: nn.Sequential) -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right = chain[0], chain[1], chain[3]

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.left(x) + self.right(x)

    forked = Forked()
    x = noise(4, 9, 24)
    integer = convert(forked, [x])
    assert set(integer.blocks) == {"stem", "left", "right"}
    error = integer.module(x) - forked(x)
    assert float(error.norm() / forked(x).norm()) < 0.1


def test_a_block_whose_output_something_else_reads_gives_floats(chain: nn.Sequential) -> None:
    class Tapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.rest = chain[0], chain[1]

        def forward(self, x: Tensor) -> Tensor:
            stem = self.stem(x)
            out: Tensor = self.rest(stem) + stem.mean(1, keepdim=True)
            return out

    tapped = Tapped()
    x = noise(4, 9, 24)
    integer = convert(tapped, [x])
    assert set(integer.blocks) == {"stem", "rest"}
    error = integer.module(x) - tapped(x)
    assert float(error.norm() / tapped(x).norm()) < 0.1


def test_a_saved_model_is_restored_bit_for_bit(zoo: Any) -> None:
    for family in ("vit", "swin"):
        integer, x = zoo.converted(family), zoo.images(family, 2)
        again = restore(zoo.model(family), integer.module.state_dict())
        assert list(again.blocks) == list(integer.blocks)
        assert torch.equal(again.module(x), integer.module(x))
    with pytest.raises(ConversionError, match="holds integer blocks"):
        restore(zoo.model("vit"), zoo.model("vit").state_dict())


def test_a_converted_model_is_copied_bit_for_bit(zoo: Any) -> None:
    integer, x = zoo.converted("vit"), zoo.images("vit", 2)
    assert torch.equal(copy.deepcopy(integer.module)(x), integer.module(x))


def test_embedding_and_head_stay_as_they_are(zoo: Any) -> None:
    model, integer = zoo.model("vit"), zoo.converted("vit")
    state = integer.module.state_dict()
    outside = {k: v for k, v in model.state_dict().items() if not k.startswith("blocks.")}
    assert all(torch.equal(state[name], value) for name, value in outside.items())
    floats = [k for k, v in state.items() if k.startswith("blocks.") and v.is_floating_point()]
    assert all(".scales." in name for name in floats)


def test_a_mask_is_refused(zoo: Any) -> None:
    part = zoo.converted("vit").module.blocks[0]
    with pytest.raises(ConversionError, match="got a mask"):
        part(torch.zeros(1, 17, 192), attn_mask=torch.zeros(17, 17))
    with pytest.raises(ConversionError, match="got a mask"):
        part(torch.zeros(1, 17, 192), is_causal=True)


def test_half_precision_goes_in_and_out(chain: nn.Sequential) -> None:
    model = copy.deepcopy(chain).bfloat16()
    x = noise(4, 9, 24).bfloat16()
    module = convert(model, [x]).module
    found = module(x)
    assert found.dtype == torch.bfloat16
    assert float((found - model(x)).float().norm() / model(x).float().norm()) < 0.15


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_converted_model_changes_its_dtype(chain: nn.Sequential, dtype: torch.dtype) -> None:
    x = noise(4, 9, 24)
    module = convert(chain, [x]).module
    exact, scales = module(x), module[0].block.scales.input.clone()  # type: ignore[index, union-attr]
    found = module.to(dtype)(x.to(dtype))
    assert found.dtype == dtype
    assert float((found - exact).float().norm() / exact.norm()) < 0.1
    assert torch.equal(module[0].block.scales.input, scales)  # type: ignore[index, union-attr]


def test_layers_are_named_as_in_the_float_model(zoo: Any) -> None:
    layers = get_quantized_layers(zoo.converted("vit"))
    assert list(layers)[:5] == [
        *(f"blocks.0.{name}" for name in ("qkv", "proj", "fc1", "fc2")),
        "blocks.1.qkv",
    ]
    assert all(isinstance(layer, QuantLinear) for layer in layers.values())
    assert len(layers) == 12
