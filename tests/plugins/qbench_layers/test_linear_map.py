"""Layers that are linear maps: patches times rows are what the layer gives, and rows can be replaced."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from qbench_layers import qbench_register_layers
from qbench_suite import IntFormat, LinearMap, Mode, PerChannel, Quantizer, QuantModule, Role
from qbench_suite.scaling.compiling import eager

WEIGHT = {
    Role.WEIGHT: Quantizer(
        IntFormat(name="int4", bits=4, low=-7, high=7),
        Mode(name="channel", granularity=PerChannel()),
    )
}
LAYERS: list[type[QuantModule]] = []
qbench_register_layers(LAYERS.append)
TWIN = {dotted.rpartition(".")[2]: layer for layer in LAYERS for dotted in layer.float_types}


@pytest.fixture(autouse=True)
def _eager() -> Iterator[None]:
    torch.manual_seed(0)
    with eager(), torch.no_grad():
        yield


CASES = {
    "linear": (nn.Linear(6, 4), (3, 6)),
    "tokens": (nn.Linear(6, 4, bias=False), (2, 3, 5, 6)),
    "sequence": (nn.Conv1d(6, 4, 3, padding=2, dilation=2), (2, 6, 9)),
    "image": (nn.Conv2d(6, 4, 3, padding=1), (2, 6, 7, 5)),
    "strided": (nn.Conv2d(6, 4, (3, 2), stride=(2, 3), padding=(1, 0)), (2, 6, 9, 8)),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2, dilation=(1, 2)), (2, 6, 7, 9)),
    "depthwise": (nn.Conv2d(6, 12, 3, groups=6, padding=1, bias=False), (2, 6, 5, 5)),
    "same": (nn.Conv2d(6, 4, (2, 3), padding="same"), (2, 6, 5, 5)),
    "valid": (nn.Conv2d(6, 4, 3, padding="valid"), (2, 6, 5, 5)),
    "reflected": (nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"), (2, 6, 5, 5)),
    "circular": (nn.Conv1d(6, 4, 3, padding=1, padding_mode="circular"), (2, 6, 5)),
    "volume": (nn.Conv3d(6, 4, 2, stride=2, groups=2), (2, 6, 4, 4, 6)),
    "one image": (nn.Conv2d(6, 4, 3), (6, 5, 5)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("last", [False, True])
def test_patches_times_rows_are_the_output(name: str, last: bool) -> None:
    module, shape = CASES[name]
    layer = TWIN[type(module).__name__].from_float(module, WEIGHT)
    assert isinstance(layer, LinearMap)
    x = torch.randn(shape)
    if last and len(shape) == 4 and isinstance(module, nn.Conv2d):
        x = x.to(memory_format=torch.channels_last)
    y = layer(x)
    rows = layer.weight_record().result.values
    torch.testing.assert_close(_outputs(layer, rows, x, y), y)
    # Other rows are computed with as soon as they are set.
    other = torch.randn_like(rows)
    layer.set_weight(other)
    y = layer(x)
    torch.testing.assert_close(_outputs(layer, other, x, y), y)
    assert torch.equal(layer.weight_record().result.values, other)


def _outputs(layer: LinearMap, rows: Tensor, x: Tensor, like: Tensor) -> Tensor:
    """``W · p + b`` of every patch, laid out as ``like``."""
    patches = layer.patches(x)
    y = patches @ rows.view(layer.groups, -1, rows.shape[1]).mT  # (g, patches, out/g)
    y = y.movedim(0, 1).flatten(1)
    y = y if layer.bias is None else y + layer.bias
    if like.shape[-1] == y.shape[1] and type(layer).__name__ == "QuantLinear":
        return y.view(like.shape)
    batched = like if like.dim() == len(layer.weight.shape) else like[None]
    spatial = batched.shape[2:]
    return y.view(len(batched), *spatial, -1).movedim(-1, 1).view(like.shape)


def test_timm_convolutions_are_maps_by_the_weight_they_compute_with() -> None:
    std_conv = pytest.importorskip("timm.layers.std_conv")
    module = std_conv.ScaledStdConv2dSame(6, 4, 3, stride=2)
    layer = TWIN["ScaledStdConv2dSame"].from_float(module, WEIGHT)
    assert isinstance(layer, LinearMap)
    x = torch.randn(2, 6, 6, 7)
    y = layer(x)
    rows = layer.weight_record().result.values
    torch.testing.assert_close(_outputs(layer, rows, x, y), y)


def test_layers_of_several_weights_are_none() -> None:
    maps = {layer.__name__ for layer in LAYERS if issubclass(layer, LinearMap)}
    assert {"QuantLinear", "QuantConv1d", "QuantConv2d", "QuantConv3d"} <= maps
    assert maps.isdisjoint({"QuantLSTM", "QuantLayerNorm", "QuantMultiheadAttention"})
    assert maps.isdisjoint({"QuantConvTranspose2d", "QuantAttention"})


def test_a_weight_left_float_has_no_record() -> None:
    layer = TWIN["Linear"].from_float(nn.Linear(3, 2), {})
    assert isinstance(layer, LinearMap)
    with pytest.raises(KeyError, match="weight"):
        layer.weight_record()
