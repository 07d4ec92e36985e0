"""The integer block: the same bits however it runs, integers alone, clear errors."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qbench_fqvit import QuantTimmVitBlock, reference
from qbench_suite import ConversionError

Small = Callable[..., QuantTimmVitBlock]
SCHEMES: tuple[dict[str, Any], ...] = (
    {},
    {"softmax": "lis4"},
    {"softmax": "uniform8"},
    {"residual_bits": 16},
    {"power_of_two": True},
    {"folding": False, "ptf": 0},
)
schemes = pytest.mark.parametrize(
    "scheme", SCHEMES, ids=lambda s: "+".join(f"{k}={v}" for k, v in s.items()) or "default"
)


def adversarial(block: QuantTimmVitBlock) -> dict[str, Tensor]:
    """Codes at the ends of the range, constant rows, one token, noise."""
    channels, bits = block.layout.channels, block.layout.residual_bits
    dtype, low, high = (torch.int8, -128, 127) if bits == 8 else (torch.int16, -(2**15), 2**15 - 1)
    shape = (2, 9, channels)
    generator = torch.Generator().manual_seed(5)
    sign = torch.where(torch.arange(channels) % 2 > 0, low, high)
    return {
        "lowest": torch.full(shape, low, dtype=dtype),
        "highest": torch.full(shape, high, dtype=dtype),
        "zeros": torch.zeros(shape, dtype=dtype),
        "alternating": sign.to(dtype).expand(shape).contiguous(),
        "rows": torch.arange(-9, 9).view(2, 9, 1).expand(shape).to(dtype).contiguous(),
        "token": torch.randint(low, high + 1, (1, 1, channels), generator=generator).to(dtype),
        "noise": torch.randint(low, high + 1, shape, generator=generator).to(dtype),
    }


@schemes
def test_block_reference_and_steps_give_the_same_bits(small: Small, scheme: dict[str, Any]) -> None:
    block = small(**scheme)
    state = block.state_dict()
    for name, codes in adversarial(block).items():
        found = block(codes)
        assert found.dtype == codes.dtype, name
        assert found.shape == codes.shape, name
        assert np.array_equal(found.numpy(), reference.run(state, codes.numpy())), name
        assert torch.equal(found, block.steps(codes)["output"]), name


def test_without_the_library_the_bits_are_the_same(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qbench_fqvit.ops import native

    block = small()
    with_library = {name: block(codes) for name, codes in adversarial(block).items()}
    monkeypatch.setenv("QBENCH_NATIVE", "0")
    native.kernels.cache_clear()
    try:
        assert block.native_libraries() == ()
        for name, codes in adversarial(block).items():
            assert torch.equal(block(codes), with_library[name]), name
    finally:
        monkeypatch.undo()
        native.kernels.cache_clear()


class Dtypes(TorchDispatchMode):
    """Every dtype that an operation meets."""

    def __init__(self) -> None:
        super().__init__()
        self.met: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, out))
        self.met |= {leaf.dtype for leaf in leaves if isinstance(leaf, Tensor)}
        assert not any(isinstance(leaf, float) for leaf in leaves), func
        return out


@schemes
def test_no_float_is_met(small: Small, scheme: dict[str, Any]) -> None:
    block = small(**scheme)
    codes = adversarial(block)["noise"]
    for run in (block, block.steps):
        with Dtypes() as dtypes:
            run(codes)
        assert dtypes.met
        assert not any(dtype.is_floating_point for dtype in dtypes.met)


def test_forward_reads_no_scale(small: Small) -> None:
    block = small()
    codes = adversarial(block)["noise"]
    expected = block(codes)
    for scale in block.scales.buffers():
        scale.fill_(float("nan"))
    assert torch.equal(block(codes), expected)


def test_state_dict_holds_integers_and_declared_scales(small: Small) -> None:
    state = small().state_dict()
    floats = [name for name, value in state.items() if value.dtype.is_floating_point]
    assert floats
    assert all(name.startswith("scales.") for name in floats)
    assert {state[f"{name}.weight"].dtype for name in ("qkv", "proj", "fc1", "fc2")} == {torch.int8}
    weights = sum(state[f"{name}.weight"].numel() for name in ("qkv", "proj", "fc1", "fc2"))
    assert weights == 12 * 24 * 24


@schemes
def test_copies_give_the_same_bits(small: Small, scheme: dict[str, Any]) -> None:
    block = small(**scheme)
    file = io.BytesIO()
    torch.save(block.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    empty = QuantTimmVitBlock(block.layout)
    empty.load_state_dict(state)
    others = {
        "from_state_dict": QuantTimmVitBlock.from_state_dict(state),
        "loaded": empty,
        "deepcopy": copy.deepcopy(block),
        "pickle": pickle.loads(pickle.dumps(block)),
    }
    for name, codes in adversarial(block).items():
        for way, other in others.items():
            assert torch.equal(other(codes), block(codes)), (name, way)


def test_exported_and_compiled_give_the_same_bits(small: Small) -> None:
    block = small()
    codes = adversarial(block)["noise"]
    exported = torch.export.export(block, (codes,))
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    assert torch.equal(exported.module()(codes), block(codes))
    assert torch.equal(compiled(codes), block(codes))
    dtypes = {
        value.dtype
        for node in exported.graph.nodes
        if isinstance(value := node.meta.get("val"), Tensor) and node.users
    }
    assert dtypes
    assert not any(dtype.is_floating_point for dtype in dtypes)


def test_a_constant_row_gives_the_norms_bias(small: Small) -> None:
    block = small()
    same = torch.zeros(1, 1, 24, dtype=torch.int8)
    assert torch.equal(block.norm1(same)[0, 0], block.norm1.bias.clamp(-128, 127).to(torch.int8))


def test_the_rim_rounds_and_saturates(small: Small) -> None:
    block = small()
    step = block.scales.input
    times = (3.4, 1e6, -1e6, 0.0, float("inf"), float("-inf"), float("nan"))
    codes = block.quantize_input(torch.stack([step * t for t in times])[None])
    assert codes.dtype == torch.int8
    assert codes[0].unique(dim=1).T.tolist() == [[3, 127, -128, 0, 127, -128, 0]]


def test_a_float_tensor_is_refused(small: Small) -> None:
    with pytest.raises(ConversionError, match=r"takes torch.int8 codes.*got torch.float32"):
        small()(torch.zeros(1, 2, 24))


def test_another_width_is_refused(small: Small) -> None:
    with pytest.raises(ConversionError, match=r"24 channels; got torch.int8 of shape \(1, 2, 23\)"):
        small()(torch.zeros(1, 2, 23, dtype=torch.int8))


def test_a_block_without_calibration_is_refused(small: Small) -> None:
    empty = QuantTimmVitBlock(small().layout)
    with pytest.raises(ConversionError, match="never calibrated"):
        empty(torch.zeros(1, 2, 24, dtype=torch.int8))


def test_more_tokens_than_32_bits_sum_are_refused(small: Small) -> None:
    with pytest.raises(ConversionError, match=r"At most 511 tokens .* got 512"):
        small()(torch.zeros(1, 512, 24, dtype=torch.int8))


def test_a_state_dict_of_another_block_is_refused(small: Small) -> None:
    block = small()
    with pytest.raises(ConversionError, match="layout"):
        block.load_state_dict(small(softmax="lis4").state_dict())
    with pytest.raises(ConversionError, match="holds its 'header'"):
        QuantTimmVitBlock.from_state_dict({"weight": torch.zeros(1)})
    with pytest.raises(ConversionError, match="A layout is"):
        QuantTimmVitBlock.from_state_dict({"header": torch.zeros(3)})


def test_a_loaded_block_has_no_float_original(small: Small) -> None:
    loaded = QuantTimmVitBlock.from_state_dict(small().state_dict())
    with pytest.raises(ConversionError, match="float original"):
        loaded.float_stages(torch.zeros(1, 2, 24))
