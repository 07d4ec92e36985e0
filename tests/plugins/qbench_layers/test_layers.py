"""What holds of every layer of the plugin."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import timm.layers as timm_layers
import torch
from timm.layers import activations, activations_me, adaptive_avgmax_pool, grn, norm, norm_act
from timm.models import fastvit, metaformer, mlp_mixer, nfnet
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

import qbench_layers as layers
from qbench_suite import LayerError, Quantized, Quantizer, QuantModule, Role
from qbench_suite.layers import replaces, resolve

IMAGE = (2, 8, 9, 11)
TOKENS = (2, 7, 16)


@dataclass(frozen=True)
class Example:
    """A float module, its twin, and the shape of an input."""

    layer: type[QuantModule]
    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = IMAGE


def _convolutions() -> list[Example]:
    row, volume = (2, 8, 13), (2, 4, 5, 6, 7)
    return [
        Example(layers.QuantConv1d, lambda: nn.Conv1d(8, 6, 3, 2, padding="valid"), row),
        Example(
            layers.QuantConv1d,
            lambda: nn.Conv1d(8, 6, 4, padding="same", padding_mode="circular"),
            row,
        ),
        Example(layers.QuantConv3d, lambda: nn.Conv3d(4, 6, (1, 3, 3), groups=2), volume),
        Example(
            layers.QuantConv3d,
            lambda: nn.Conv3d(4, 4, 3, padding=1, padding_mode="reflect", bias=False),
            volume,
        ),
        Example(layers.QuantConvTranspose1d, lambda: nn.ConvTranspose1d(8, 6, 3, 2), row),
        Example(layers.QuantConvTranspose2d, lambda: nn.ConvTranspose2d(8, 12, 2, 2)),
        Example(
            layers.QuantConvTranspose2d,
            lambda: nn.ConvTranspose2d(8, 12, 3, 2, 1, 1, groups=4, bias=False),
        ),
        Example(
            layers.QuantConvTranspose3d,
            lambda: nn.ConvTranspose3d(4, 6, 2, dilation=2, groups=2),
            volume,
        ),
    ]


def _same_convolutions() -> list[Example]:
    return [
        Example(layer, lambda make=make: make(8, 12, 3, stride=2, bias=True))
        for layer, make in (
            (layers.QuantConv2dSame, timm_layers.Conv2dSame),
            (layers.QuantStdConv2d, timm_layers.StdConv2d),
            (layers.QuantStdConv2d, timm_layers.StdConv2dSame),
            (layers.QuantScaledStdConv2d, timm_layers.ScaledStdConv2d),
            (layers.QuantScaledStdConv2d, timm_layers.ScaledStdConv2dSame),
        )
    ]


def _pools() -> list[Example]:
    kinds = (
        "avg",
        "max",
        "avgmax",
        "catavgmax",
        "fast",
        "fastmax",
        "fastavgmax",
        "fastcatavgmax",
        "",
    )
    return [
        Example(layers.QuantMaxPool2d, lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
        Example(layers.QuantMaxPool2d, lambda: timm_layers.pool2d_same.MaxPool2dSame(3, 2)),
        Example(layers.QuantAvgPool2d, lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
        Example(layers.QuantAvgPool2d, lambda: timm_layers.AvgPool2dSame(3, 2)),
        Example(layers.QuantAdaptiveAvgPool2d, lambda: nn.AdaptiveAvgPool2d((3, None))),
        Example(layers.QuantMaxPool1d, lambda: nn.MaxPool1d(3, 2, 1), (2, 8, 13)),
        Example(layers.QuantAvgPool1d, lambda: nn.AvgPool1d(3, 2, 1), (2, 8, 13)),
        Example(layers.QuantAdaptiveAvgPool1d, lambda: nn.AdaptiveAvgPool1d(4), (2, 8, 13)),
        Example(layers.QuantAdaptiveMaxPool2d, lambda: nn.AdaptiveMaxPool2d((3, None))),
        *(
            Example(layers.QuantFastAdaptivePool, make)
            for make in (
                lambda: adaptive_avgmax_pool.FastAdaptiveAvgPool(True),
                lambda: adaptive_avgmax_pool.FastAdaptiveMaxPool(),
                lambda: adaptive_avgmax_pool.FastAdaptiveAvgMaxPool(True, input_fmt="NHWC"),
                lambda: adaptive_avgmax_pool.FastAdaptiveCatAvgMaxPool(),
                lambda: adaptive_avgmax_pool.AdaptiveAvgMaxPool2d(),
                lambda: adaptive_avgmax_pool.AdaptiveCatAvgMaxPool2d(),
            )
        ),
        *(
            Example(
                layers.QuantSelectAdaptivePool2d,
                lambda kind=kind: timm_layers.SelectAdaptivePool2d(pool_type=kind, flatten=True),
            )
            for kind in kinds
        ),
    ]


def _activations() -> list[Example]:
    makers: list[tuple[type[QuantModule], Callable[[], nn.Module]]] = [
        (layers.QuantReLU, nn.ReLU),
        (layers.QuantReLU6, nn.ReLU6),
        (layers.QuantGELU, nn.GELU),
        (layers.QuantGELU, lambda: nn.GELU("tanh")),
        (layers.QuantGELU, activations.GELU),
        (layers.QuantGELU, activations.GELUTanh),
        (layers.QuantGELU, activations.QuickGELU),
        (layers.QuantSiLU, nn.SiLU),
        (layers.QuantSiLU, activations.Swish),
        (layers.QuantSiLU, activations_me.SwishMe),
        (layers.QuantSigmoid, nn.Sigmoid),
        (layers.QuantSigmoid, activations.Sigmoid),
        (layers.QuantTanh, nn.Tanh),
        (layers.QuantTanh, activations.Tanh),
        (layers.QuantHardswish, nn.Hardswish),
        (layers.QuantHardswish, activations.HardSwish),
        (layers.QuantHardswish, activations_me.HardSwishMe),
        (layers.QuantHardsigmoid, nn.Hardsigmoid),
        (layers.QuantHardsigmoid, activations.HardSigmoid),
        (layers.QuantHardsigmoid, activations_me.HardSigmoidMe),
        (layers.QuantSoftmax, lambda: nn.Softmax(dim=2)),
        (layers.QuantLeakyReLU, lambda: nn.LeakyReLU(0.2)),
        (layers.QuantPReLU, lambda: nn.PReLU(8)),
        (layers.QuantPReLU, lambda: activations.PReLU(1)),
        (layers.QuantELU, lambda: nn.ELU(0.7)),
        (layers.QuantSELU, nn.SELU),
        (layers.QuantMish, nn.Mish),
        (layers.QuantMish, activations.Mish),
        (layers.QuantMish, activations_me.MishMe),
        (layers.QuantHardMish, activations.HardMish),
        (layers.QuantHardMish, activations_me.HardMishMe),
        (layers.QuantSoftplus, lambda: nn.Softplus(2.0, 5.0)),
        (layers.QuantStarReLU, lambda: metaformer.StarReLU(0.8, -0.4)),
        (layers.QuantStarReLU, metaformer.SquaredReLU),
        (layers.QuantGammaAct, lambda: nfnet.GammaAct("silu", 1.8)),
    ]
    return [Example(layer, make) for layer, make in makers]


def _norms() -> list[Example]:
    return [
        Example(layers.QuantBatchNorm2d, lambda: nn.BatchNorm2d(8)),
        Example(layers.QuantBatchNorm2d, lambda: nn.BatchNorm2d(8, affine=False)),
        Example(layers.QuantLayerNorm, lambda: nn.LayerNorm(16), TOKENS),
        Example(layers.QuantLayerNorm, lambda: nn.LayerNorm((7, 16)), TOKENS),
        Example(layers.QuantLayerNorm, lambda: nn.LayerNorm(11, bias=False)),
        Example(layers.QuantLayerNorm, lambda: norm.LayerNorm(16, affine=False), TOKENS),
        Example(layers.QuantLayerNorm, lambda: norm.LayerNormFp32(16), TOKENS),
        Example(layers.QuantLayerNorm2d, lambda: norm.LayerNorm2d(8)),
        Example(layers.QuantLayerNorm2d, lambda: norm.LayerNorm2dFp32(8)),
        Example(layers.QuantGroupNorm, lambda: nn.GroupNorm(2, 8)),
        Example(layers.QuantGroupNorm, lambda: nn.GroupNorm(2, 8), (3, 8, 5)),
        Example(layers.QuantGroupNorm, lambda: norm.GroupNorm1(8, affine=False)),
        Example(layers.QuantRMSNorm, lambda: nn.RMSNorm(16), TOKENS),
        Example(layers.QuantRMSNorm, lambda: nn.RMSNorm(16, elementwise_affine=False), TOKENS),
        Example(layers.QuantRMSNorm, lambda: norm.RmsNorm(16), TOKENS),
        Example(layers.QuantRMSNorm, lambda: norm.RmsNormFp32(16), TOKENS),
        Example(layers.QuantBatchNormAct2d, lambda: norm_act.BatchNormAct2d(8)),
        Example(layers.QuantBatchNormAct2d, lambda: norm_act.BatchNormAct2d(8, act_layer="prelu")),
        Example(layers.QuantBatchNormAct2d, lambda: norm_act.BatchNormAct2d(8, apply_act=False)),
        Example(layers.QuantLayerNormAct, lambda: norm_act.LayerNormAct(16), TOKENS),
        Example(layers.QuantLayerNormAct2d, lambda: norm_act.LayerNormAct2d(8, act_layer=nn.SiLU)),
        Example(layers.QuantGroupNormAct, lambda: norm_act.GroupNormAct(8, 2)),
        Example(layers.QuantGroupNormAct, lambda: norm_act.GroupNorm1Act(8)),
        Example(layers.QuantRMSNormAct, lambda: norm_act.RmsNormAct(16), TOKENS),
        Example(layers.QuantRMSNormAct, lambda: norm_act.RmsNormActFp32(16), TOKENS),
        *_more_norms(),
    ]


def _more_norms() -> list[Example]:
    return [
        Example(layers.QuantBatchNorm1d, lambda: nn.BatchNorm1d(8), (5, 8)),
        Example(layers.QuantBatchNorm1d, lambda: nn.BatchNorm1d(8), (2, 8, 5)),
        Example(layers.QuantBatchNorm3d, lambda: nn.BatchNorm3d(4), (2, 4, 3, 5, 6)),
        Example(layers.QuantFrozenBatchNorm2d, lambda: FrozenBatchNorm2d(8)),
        Example(layers.QuantInstanceNorm2d, lambda: nn.InstanceNorm2d(8, affine=True)),
        Example(layers.QuantInstanceNorm2d, lambda: nn.InstanceNorm2d(8, track_running_stats=True)),
        Example(layers.QuantRMSNorm2d, lambda: norm.RmsNorm2d(8)),
        Example(layers.QuantRMSNorm2d, lambda: norm.RmsNorm2dFp32(8, affine=False)),
        Example(layers.QuantSimpleNorm, lambda: norm.SimpleNorm(16), TOKENS),
        Example(layers.QuantSimpleNorm, lambda: norm.SimpleNormFp32(16), TOKENS),
        Example(layers.QuantSimpleNorm2d, lambda: norm.SimpleNorm2d(8)),
        Example(layers.QuantSimpleNorm2d, lambda: norm.SimpleNorm2dFp32(8)),
        Example(layers.QuantRMSNormAct2d, lambda: norm_act.RmsNormAct2d(8, act_layer="prelu")),
        Example(layers.QuantRMSNormAct2d, lambda: norm_act.RmsNormAct2dFp32(8, apply_act=False)),
        Example(layers.QuantGlobalResponseNorm, lambda: grn.GlobalResponseNorm(11)),
        Example(
            layers.QuantGlobalResponseNorm,
            lambda: grn.GlobalResponseNorm(8, channels_last=False),
        ),
    ]


EXAMPLES = [
    Example(layers.QuantConv2d, lambda: nn.Conv2d(8, 12, 3, stride=2, padding=1)),
    Example(layers.QuantConv2d, lambda: nn.Conv2d(8, 8, 3, groups=8, bias=False)),
    *_convolutions(),
    *_same_convolutions(),
    Example(layers.QuantLinear, lambda: nn.Linear(16, 5), TOKENS),
    Example(layers.QuantLinear, lambda: nn.Linear(11, 5, bias=False)),
    *_norms(),
    *_pools(),
    *_activations(),
    Example(layers.QuantAttention, lambda: timm_layers.Attention(16, 4, qkv_bias=True), TOKENS),
    Example(layers.QuantLayerScale, lambda: timm_layers.LayerScale(16, 0.1), TOKENS),
    Example(layers.QuantLayerScale2d, lambda: timm_layers.LayerScale2d(8, 0.1)),
    Example(layers.QuantLayerScale2d, lambda: fastvit.LayerScale2d(8, 0.1)),
    Example(layers.QuantScale, lambda: metaformer.Scale(8)),
    Example(layers.QuantScale, lambda: metaformer.Scale(16, use_nchw=False), TOKENS),
    Example(layers.QuantAffine, lambda: mlp_mixer.Affine(16), TOKENS),
]
#: Layers that take or give several tensors, with tests of their own.
SEVERAL = {layers.QuantMultiheadAttention, layers.QuantLSTM, layers.QuantGRU}
NAMES = [f"{i}-{example.layer.__name__}" for i, example in enumerate(EXAMPLES)]
IMAGES = {name: e for name, e in zip(NAMES, EXAMPLES, strict=True) if len(e.shape) == 4}
every_example = pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)

QuantizerOf = Callable[[str], Quantizer]


def build(example: Example) -> nn.Module:
    """The float module in evaluation, its parameters and statistics no longer at their defaults."""
    module = example.make().eval()
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.1)
    return module


def test_every_layer_has_an_example() -> None:
    assert {example.layer for example in EXAMPLES} == set(layers.LAYERS) - SEVERAL


def test_the_hook_registers_every_layer() -> None:
    registered: list[type[QuantModule]] = []
    layers.qbench_register_layers(registered.append)
    assert tuple(registered) == layers.LAYERS


@pytest.mark.parametrize("layer", layers.LAYERS, ids=lambda layer: layer.__name__)
def test_every_float_type_resolves_and_is_claimed(layer: type[QuantModule]) -> None:
    for dotted in layer.float_types:
        found = resolve(dotted)
        assert found is not None, dotted
        assert [other for other in layers.LAYERS if replaces(other, found)] == [layer]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@every_example
def test_without_quantizers_it_is_its_float_twin(example: Example, dtype: torch.dtype) -> None:
    module = build(example).to(dtype)
    assert_twins(example, module, torch.randn(example.shape).to(dtype))


@pytest.mark.parametrize("example", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("which", ["input", "weights", "both"])
def test_it_keeps_the_memory_order_of_its_float_twin(example: Example, which: str) -> None:
    module, x = build(example), torch.randn(example.shape)
    if which != "weights":
        x = x.contiguous(memory_format=torch.channels_last)
    if which != "input":
        module = module.to(memory_format=torch.channels_last)
    assert_twins(example, module, x)


def assert_twins(example: Example, module: nn.Module, x: Tensor) -> None:
    """The layer without quantizers gives the bits, the dtype and the strides of its float twin."""
    expected = module(x.clone())
    found = example.layer.from_float(module, {})(x)
    assert torch.equal(found, expected)
    assert (found.dtype, found.stride()) == (expected.dtype, expected.stride())


@every_example
def test_the_float_module_and_the_input_stay_as_they_are(
    example: Example, quantizer: QuantizerOf
) -> None:
    module = build(example)
    for part in module.modules():
        if hasattr(part, "inplace"):
            part.inplace = True
    before = copy.deepcopy(module.state_dict())
    x = torch.randn(example.shape)
    x_before = x.clone()
    for quantizers in ({}, dict.fromkeys(Role, quantizer("int4-tensor"))):
        layer = example.layer.from_float(module, quantizers)
        layer(x)
        for parameter in layer.parameters():
            parameter.zero_()
    assert torch.equal(x, x_before)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(getattr(part, "inplace", True) for part in module.modules())


@pytest.mark.parametrize(
    "name", ["fp8_e4m3-tensor", "int8-channel", "uint8-token", "fp4_e2m1-mx32", "int8-chunk3"]
)
@every_example
def test_every_quantized_tensor_is_compliant(
    example: Example,
    name: str,
    quantizer: QuantizerOf,
    assert_compliant: Callable[[Quantized], None],
) -> None:
    roles = dict.fromkeys(Role, quantizer(name))
    layer = example.layer.from_float(build(example), roles)
    layer.record = True
    y = layer(torch.randn(example.shape))
    assert not y.isnan().any()
    records = list(layer.quantized_tensors())
    for record in records:
        assert_compliant(record)
    known = {*example.layer.roles, *example.layer.optional_roles}
    assert {record.role for record in records} <= known


@every_example
def test_roles_that_a_layer_does_not_know_do_no_harm(
    example: Example, quantizer: QuantizerOf
) -> None:
    unknown = set(Role) - {*example.layer.roles, *example.layer.optional_roles}
    roles = dict.fromkeys(unknown, quantizer("int4-tensor"))
    module = build(example)
    x = torch.randn(example.shape)
    assert torch.equal(example.layer.from_float(module, roles)(x), module(x.clone()))


@every_example
def test_a_subclass_with_its_own_forward_is_not_claimed(example: Example) -> None:
    float_type = type(build(example))
    other = type("Other", (float_type,), {"forward": lambda self, x: x})
    same = type("Same", (float_type,), {})
    assert replaces(example.layer, same)
    assert not replaces(example.layer, other)
    module = build(example)
    module.__class__ = other
    with pytest.raises(LayerError, match=r"replaces .*; got .*Other\. Register"):
        example.layer.from_float(module, {})


@every_example
def test_no_child_of_a_layer_could_be_taken_for_one_left_float(example: Example) -> None:
    layer = example.layer.from_float(build(example), {})
    children = [child for child in layer.children() if not isinstance(child, nn.Identity)]
    if example.layer is layers.QuantAttention:
        return
    claimed = [
        child for child in children for other in layers.LAYERS if replaces(other, type(child))
    ]
    assert not claimed


@every_example
def test_a_state_dict_keeps_the_names_of_the_float_module(example: Example) -> None:
    module = build(example)
    names = set(example.layer.from_float(module, {}).state_dict())
    assert names <= set(module.state_dict())


def test_nothing_trains(quantizer: QuantizerOf) -> None:
    layer = layers.QuantLinear.from_float(nn.Linear(4, 4), {Role.WEIGHT: quantizer("int8-tensor")})
    assert not any(parameter.requires_grad for parameter in layer.parameters())
