"""The quantized batch norm, and what becomes of it when its statistics are quantized too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qbench_layers import QuantBatchNorm2d
from qbench_suite import Axes, LayerError, Quantized, Quantizer, Role

QuantizerOf = Callable[[str], Quantizer]


def trained(variances: list[float]) -> nn.BatchNorm2d:
    """A batch norm that has seen channels of these variances."""
    module = nn.BatchNorm2d(len(variances)).eval()
    module.running_var.copy_(torch.tensor(variances))
    module.running_mean.normal_()
    module.weight.uniform_(0.5, 1.5)
    module.bias.normal_()
    return module


@pytest.mark.parametrize("name", ["fp8_e4m3-tensor", "int8-channel", "int8-token", "int8-chunk2"])
def test_it_normalises_what_was_quantized_by_hand(name: str, quantizer: QuantizerOf) -> None:
    module = trained([1.0, 2.0, 0.5])
    q = quantizer(name)
    x = torch.randn(2, 3, 4, 5)
    expected = F.batch_norm(
        q.fake_quantize(x, Axes(1, 1, 3, (0, 2, 3))).values,
        module.running_mean,
        module.running_var,
        q.fake_quantize(module.weight, Axes(None, 0, None, ())).values,
        module.bias,
        eps=module.eps,
    )
    layer = QuantBatchNorm2d.from_float(module, {Role.WEIGHT: q, Role.INPUT: q})
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("name", ["int8-tensor", "int4-channel", "fp4_e2m1-tensor"])
def test_quantized_statistics_explode_on_a_small_variance(
    name: str, quantizer: QuantizerOf
) -> None:
    variances = [100.0, 1.0, 1e-2]
    module = trained(variances)
    mean, deviation = module.running_mean.view(1, -1, 1, 1), torch.tensor(variances).sqrt()
    x = mean + torch.randn(2, 3, 8, 8) * deviation.view(1, -1, 1, 1)
    reference = module(x)
    q = quantizer(name)
    default = QuantBatchNorm2d.from_float(module, {Role.WEIGHT: q})
    damaged = QuantBatchNorm2d.from_float(module, {Role.WEIGHT: q, Role.STATISTICS: q})
    assert (default(x) - reference).abs().max() < 2
    assert (damaged(x) - reference).abs().max() > 20
    assert [record.name for record in default.quantized_tensors()] == ["weight"]


def test_quantized_statistics_are_recorded_and_compliant(
    quantizer: QuantizerOf, assert_compliant: Callable[[Quantized], None]
) -> None:
    module = trained([1.0, 2.0, 0.5])
    q = quantizer("fp8_e4m3-tensor")
    layer = QuantBatchNorm2d.from_float(module, {Role.WEIGHT: q, Role.STATISTICS: q})
    records = list(layer.quantized_tensors())
    assert [record.name for record in records] == ["weight", "running_mean", "running_var"]
    for record in records:
        assert_compliant(record)
    assert torch.equal(layer.running_var, records[2].result.values)


def test_training_mode_still_uses_running_statistics() -> None:
    module = trained([1.0, 2.0, 0.5])
    x = torch.randn(2, 3, 4, 5)
    expected = module(x)
    layer = QuantBatchNorm2d.from_float(module, {}).train()
    assert torch.equal(layer(x), expected)
    assert torch.equal(layer.running_mean, module.running_mean)


def test_a_batch_norm_without_running_statistics_is_an_error() -> None:
    with pytest.raises(LayerError, match=r"uses running statistics; got .* leave it float"):
        QuantBatchNorm2d.from_float(nn.BatchNorm2d(3, track_running_stats=False), {})
