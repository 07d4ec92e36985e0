"""What is loaded into integer blocks: whole and of the right kind, or refused before it is used."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench_fqvit import QuantTimmVitBlock, reference, restore, round_weights
from qbench_fqvit.layout import Layout
from qbench_suite import ConversionError, IntegerModel

Small = Callable[..., QuantTimmVitBlock]
Change = Callable[[Tensor], Any]


def noise(block: QuantTimmVitBlock, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    wanted = (*shape, block.layout.channels)
    return torch.randint(-128, 128, wanted, generator=generator).to(torch.int8)


def put(index: int, value: float) -> Change:
    """One element of a copy set to ``value``."""

    def change(x: Tensor) -> Tensor:
        x = x.clone()
        x[index] = value
        return x

    return change


CORRUPT: dict[str, tuple[str, Change, str]] = {
    "float weight": (
        "fc1.weight",
        lambda x: x.float() * 1.7,
        r"'fc1.weight' is of torch.int8; got torch.float32",
    ),
    "nan bias": ("qkv.bias", lambda x: x.float() * float("nan"), r"'qkv.bias' is of torch.int32"),
    "wide weight": ("proj.weight", lambda x: x.int(), r"is of torch.int8; got torch.int32"),
    "integer scale": ("scales.fc1", lambda x: x.int(), r"'scales.fc1' is of a float type"),
    "shape": ("proj.bias", lambda x: x[:-1], r"shape \(24,\); got \(23,\)"),
    "array": ("proj.bias", lambda x: x.numpy(), r"is a tensor; got ndarray"),
    "shift -3": ("act.shift", put(5, -3), r"'act.shift' is within 1 … 62; got -3"),
    "shift 0": ("qkv_act.shift", put(0, 0), r"within 1 … 62; got 0"),
    "shift 63": ("residual1.shift", put(1, 63), r"within 1 … 62; got \d+ … 63"),
    "shift 100": ("context_act.shift", put(0, 100), r"within 1 … 62; got \d+ … 100"),
    "norm shift -1": ("norm1.shift", put(0, -1), r"'norm1.shift' is within 0 … 19; got -1"),
    "norm shift 20": ("norm2.shift", put(0, 20), r"within 0 … 19; got \d+ … 20"),
    "rising table": ("softmax.exp_table", put(9, 2**30), r"'softmax.exp_table' falls"),
    "negative table": ("softmax.exp_table", put(255, -1), r"'softmax.exp_table' falls"),
    "zero table": ("softmax.exp_table", torch.zeros_like, r"falls from a positive value"),
    "large table": ("softmax.exp_table", put(0, 2**23), r"511 sum below 2³¹"),
    "nan scale": ("scales.input", put(0, float("nan")), r"positive and finite"),
    "zero scale": ("scales.output", put(0, 0.0), r"positive and finite"),
}


@pytest.mark.parametrize("name", CORRUPT)
def test_a_corrupt_tensor_is_refused_before_any_is_taken(small: Small, name: str) -> None:
    key, change, message = CORRUPT[name]
    block = small()
    state = {k: v.clone() for k, v in block.state_dict().items()}
    state["qkv.weight"].zero_()
    state[key] = change(state[key])
    codes = noise(block, 2, 5)
    expected = block(codes)
    for strict in (True, False):
        with pytest.raises(ConversionError, match=message):
            block.load_state_dict(state, strict=strict)
    with pytest.raises(ConversionError, match=message):
        QuantTimmVitBlock.from_state_dict(state)
    assert torch.equal(block(codes), expected)


#: Field of a header → values that it cannot have.
HEADERS = {
    "channels": (0, -24, 10**9),
    "heads": (0, 10**9, 65_536),
    "head_dim": (0, 10**9),
    "hidden": (0, 10**12),
    "softmax_code": (-1, 3, 99),
    "residual_bits": (0, 12, 32),
    "score_shift": (0, -3, 63, 100),
    "max_tokens": (0, 2**31),
    "fc1_zero_point": (-129, 128),
    "act_zero_point": (2**40,),
    "bias_windows": (1, -1),
    "bias_tokens": (9, 2**31 - 1),
    "window_height": (4, -1),
    "window_width": (4,),
    "shift_down": (1, -1),
    "shift_right": (1,),
    "map_rows": (8,),
    "map_columns": (8, -8),
}


@pytest.mark.parametrize("field", HEADERS)
def test_a_corrupt_header_is_refused(small: Small, field: str) -> None:
    state = dict(small().state_dict())
    place = list(Layout.__dataclass_fields__).index(field)
    for value in HEADERS[field]:
        state["header"] = put(place, value)(small().state_dict()["header"])
        with pytest.raises(ConversionError, match="The layout of an integer block has"):
            QuantTimmVitBlock.from_state_dict(state)


def test_a_header_of_another_block_takes_no_memory(small: Small) -> None:
    # The header is one that a block could have: 3 · 65 536² bytes of weights.
    state = dict(small().state_dict())
    large = replace(small().layout, channels=65_536, heads=64, head_dim=1024, hidden=65_536)
    state["header"] = large.to_tensor()
    with pytest.raises(ConversionError, match=r"is of shape \(65536,\); got \(24,\)"):
        QuantTimmVitBlock.from_state_dict(state)
    state["header"] = None  # type: ignore[assignment]
    with pytest.raises(ConversionError, match="A layout is a tensor; got NoneType"):
        QuantTimmVitBlock.from_state_dict(state)


def test_biases_that_no_layout_has_are_refused(zoo: Any) -> None:
    beit = zoo.converted("beit").blocks["blocks.0"].layout
    swin = zoo.converted("swin").blocks["layers.0.blocks.1"].layout
    assert (swin.map_rows, swin.map_columns, swin.bias_windows) == (18, 18, 25)
    for layout, changes in (
        (beit, {"bias_windows": 2}),
        (beit, {"bias_windows": 0}),
        (beit, {"bias_tokens": beit.max_tokens + 1}),
        (swin, {"bias_windows": 24}),
        (swin, {"bias_tokens": 15}),
        (swin, {"map_rows": 0}),
        (swin, {"map_rows": 28}),
        (swin, {"shift_down": 4}),
    ):
        with pytest.raises(ConversionError, match="The layout of an integer block has"):
            replace(layout, **changes)


def test_a_part_of_a_block_does_not_fill_it(small: Small) -> None:
    block = small()
    state = block.state_dict()
    for part in ({"header": state["header"]}, {"qkv.weight": state["qkv.weight"]}):
        empty = QuantTimmVitBlock(block.layout)
        with pytest.raises(ConversionError, match=r"holds \d+ tensors; got none named .* more"):
            empty.load_state_dict(part, strict=False)
        with pytest.raises(ConversionError, match="never calibrated"):
            empty(noise(block, 1, 2))
    without = {k: v for k, v in state.items() if k != "fc1.weight"}
    for load in (QuantTimmVitBlock.from_state_dict, block.load_state_dict):
        with pytest.raises(ConversionError, match=r"got none named fc1.weight\. "):
            load(without)
    with pytest.raises(ConversionError, match="none named"):
        block.load_state_dict({})
    with pytest.raises(ConversionError, match="also extra"):
        block.load_state_dict({**state, "extra": torch.zeros(1)})


def test_without_strict_a_block_may_be_left_out(small: Small) -> None:
    empty = QuantTimmVitBlock(small().layout)
    holder = nn.ModuleDict({"empty": empty, "norm": nn.LayerNorm(3)})
    found = holder.load_state_dict(holder["norm"].state_dict(prefix="norm."), strict=False)
    assert "empty.header" in found.missing_keys
    with pytest.raises(ConversionError, match="never calibrated"):
        empty(noise(empty, 1, 2))
    full = {f"empty.{k}": v for k, v in small().state_dict().items()}
    holder.load_state_dict({**full, "empty.extra": torch.zeros(1)}, strict=False)
    assert torch.equal(empty(noise(empty, 1, 2)), small()(noise(empty, 1, 2)))


def test_scales_of_half_precision_are_loaded(small: Small) -> None:
    state = {
        k: v.bfloat16() if v.is_floating_point() else v for k, v in small().state_dict().items()
    }
    again = QuantTimmVitBlock.from_state_dict(state)
    assert torch.equal(again.scales.input, state["scales.input"].float())


def test_a_model_of_another_architecture_is_refused(zoo: Any) -> None:
    state = zoo.converted("vit").module.state_dict()
    for family in ("deit3", "deit", "swin"):
        with pytest.raises(ConversionError, match="architecture"):
            restore(zoo.model(family), state)
    with pytest.raises(ConversionError, match=r"'blocks\.0\.rim' is two booleans"):
        restore(zoo.model("vit"), {**state, "blocks.0.rim": torch.zeros(3)})
    key = "blocks.1.block.act.shift"
    with pytest.raises(ConversionError, match=r"'act\.shift' is within"):
        restore(zoo.model("vit"), {**state, key: torch.full_like(state[key], 100)})


def test_released_floats_are_freed(small: Small) -> None:
    block = QuantTimmVitBlock.from_state_dict(small().state_dict())
    full = small()
    block.original = replace(full.float_original(), heads=2)
    kept = [weakref.ref(block.original)]
    for name, linear in block.get_quantized_layers().items():
        linear.origin = replace(full.get_quantized_layers()[name].known_origin())
        kept.append(weakref.ref(linear.origin))
    codes, state = noise(block, 2, 5), block.state_dict()
    assert len(kept) == 5
    assert all(ref() is not None for ref in kept)
    expected = block(codes)
    block.release_float()
    assert all(ref() is None for ref in kept)
    assert torch.equal(block(codes), expected)
    assert all(torch.equal(v, state[k]) for k, v in block.state_dict().items())


@pytest.mark.parametrize("way", ["released", "unpickled", "loaded"])
def test_without_floats_only_integers_can_be_asked_for(small: Small, way: str) -> None:
    block = small()
    if way == "released":
        block.release_float()
    elif way == "unpickled":
        block = pickle.loads(pickle.dumps(block))
    else:
        block = QuantTimmVitBlock.from_state_dict(block.state_dict())
    message = "loaded, unpickled or released"
    with pytest.raises(ConversionError, match=message):
        block.float_stages(torch.zeros(1, 2, 24))
    with pytest.raises(ConversionError, match=message):
        block.fc1.set_codes(block.fc1.weight)
    with pytest.raises(ConversionError, match=message):
        _round(block)


def _round(block: QuantTimmVitBlock) -> None:
    from qbench_fqvit.convert import IntegerPart

    part = IntegerPart(block, nn.Linear(1, 1), enters=True, leaves=True)
    model = IntegerModel(nn.Sequential(part), {"0": block}, {})
    round_weights(model, object(), [torch.randn(1, 4, 24)])  # type: ignore[arg-type]


def test_a_pickle_is_about_as_large_as_the_state_dict(zoo: Any) -> None:
    block = zoo.converted("vit").blocks["blocks.0"]
    size = sum(v.numel() * v.element_size() for v in block.state_dict().values())
    assert len(pickle.dumps(block)) < 1.1 * size
    block.float_stages(torch.zeros(1, 2, 192))
    pickled = pickle.dumps(zoo.converted("vit").module)
    assert torch.equal(
        pickle.loads(pickled)(zoo.images("vit", 1)),
        zoo.converted("vit").module(zoo.images("vit", 1)),
    )


def test_a_masked_block_runs_on_its_own_map_alone(zoo: Any) -> None:
    blocks = zoo.converted("swin").blocks
    plain, masked = blocks["layers.0.blocks.0"], blocks["layers.0.blocks.1"]
    for rows, columns in ((18, 17), (20, 20), (38, 38), (18, 0)):
        with pytest.raises(ConversionError, match=rf"maps of 18 × 18 .* got {rows} × {columns}"):
            masked(noise(masked, 1, rows, columns))
    # Without a mask windows are alike wherever they lie, so that any map will do.
    codes = noise(plain, 2, 8, 12)
    assert torch.equal(plain(codes)[:, :4, 4:8], plain(codes[:, :4, 4:8]))


def test_the_tokens_of_a_bias_are_asked_for(zoo: Any) -> None:
    block = zoo.converted("beit").blocks["blocks.0"]
    with pytest.raises(ConversionError, match="a bias for 17 tokens; got 16"):
        block(noise(block, 1, 16))


@pytest.mark.parametrize("given", [None, [1, 2], 3.0, np.zeros((1, 2, 24), dtype=np.int8)])
def test_what_is_no_tensor_is_refused(small: Small, given: Any) -> None:
    for run in (small(), small().steps):
        with pytest.raises(
            ConversionError, match=f"of torch.int8 codes; got {type(given).__name__}"
        ):
            run(given)


def test_nothing_in_gives_nothing_out(small: Small, zoo: Any) -> None:
    swin = zoo.converted("swin").blocks["layers.0.blocks.1"]
    cases = [
        (small(softmax=code), shape) for code in ("log8", "lis4") for shape in ((0, 5), (2, 0))
    ]
    for block, shape in [*cases, (swin, (0, 18, 18))]:
        codes = noise(block, *shape)
        found = block(codes)
        assert found.shape == codes.shape
        assert np.array_equal(found.numpy(), reference.run(block.state_dict(), codes.numpy()))
        assert reference.run(block.state_dict(), codes.numpy()).dtype == np.int8
        assert block.steps(codes)["output"].shape == codes.shape
    module = zoo.converted("swin").module
    assert module(zoo.images("swin", 1)[:0]).shape == (0, 7)
