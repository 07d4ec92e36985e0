"""timm's norms with activations: the result is `act`, or `output` where there is no activation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.layers import norm_act
from torch import nn
from torch.nn import functional as F

from qbench_layers import (
    QuantBatchNormAct2d,
    QuantGroupNormAct,
    QuantLayerNormAct,
    QuantLayerNormAct2d,
)
from qbench_suite import Axes, Quantizer, Role

QuantizerOf = Callable[[str], Quantizer]


@pytest.mark.parametrize("name", ["fp8_e4m3-tensor", "int8-channel", "int8-chunk2"])
def test_batch_norm_and_activation(name: str, quantizer: QuantizerOf) -> None:
    module = norm_act.BatchNormAct2d(6, act_layer=nn.SiLU).eval()
    module.running_var.uniform_(0.5, 2)
    module.weight.uniform_(0.5, 2)
    q = quantizer(name)
    axes = Axes(1, 1, 3, (0, 2, 3))
    x = torch.randn(2, 6, 4, 5)
    gamma = q.fake_quantize(module.weight, Axes(None, 0, None, ())).values
    y = F.batch_norm(
        q.fake_quantize(x, axes).values,
        module.running_mean,
        module.running_var,
        gamma,
        module.bias,
        eps=module.eps,
    )
    layer = QuantBatchNormAct2d.from_float(module, dict.fromkeys(set(Role) - {Role.STATISTICS}, q))
    assert torch.equal(layer(x), q.fake_quantize(F.silu(y), axes).values)


@pytest.mark.parametrize(
    ("layer", "make"),
    [
        (QuantBatchNormAct2d, norm_act.BatchNormAct2d),
        (QuantLayerNormAct2d, norm_act.LayerNormAct2d),
        (QuantGroupNormAct, lambda n, **options: norm_act.GroupNormAct(n, 2, **options)),
        (QuantLayerNormAct, lambda _, **options: norm_act.LayerNormAct(5, **options)),
    ],
)
@pytest.mark.parametrize(("apply_act", "result"), [(True, "act"), (False, "output")])
def test_the_role_of_the_result(
    layer: type[QuantBatchNormAct2d],
    make: Callable[..., nn.Module],
    apply_act: bool,
    result: str,
    quantizer: QuantizerOf,
) -> None:
    module = make(6, apply_act=apply_act).eval()
    roles = set(Role) - {Role.STATISTICS}
    twin = layer.from_float(module, dict.fromkeys(roles, quantizer("int8-tensor")))
    twin.record = True
    y = twin(torch.randn(2, 6, 4, 5))
    names = [record.name for record in twin.quantized_tensors()]
    assert names == ["weight", "input", result]
    assert bool((y >= 0).all()) == apply_act


def test_an_activation_with_parameters_follows_the_layer() -> None:
    module = norm_act.BatchNormAct2d(6, act_layer="prelu").eval()
    twin = QuantBatchNormAct2d.from_float(module, {}).double()
    assert {tensor.dtype for tensor in twin.parameters()} == {torch.float64}
    assert twin(torch.randn(2, 6, 4, 5).double()).dtype == torch.float64
