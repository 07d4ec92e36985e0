"""replace_linears: float models and converted ones, with the same values as before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qbench_suite import LayerError, default_manager
from qbench_suite.convert.assign import assign
from qbench_suite.convert.policy import read_policy
from qbench_suite.convert.survey import survey
from qbench_suite.convert.swap import ConvertedModel, convert
from qbench_suite.scaling import compiling
from qbench_w8a16 import W8A16LinearLayer, replace_linears

POLICIES = Path(__file__).parents[3] / "plugins" / "qbench_policies"


class Doubled(nn.Linear):
    """Computes something else than its base."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(200, 64), nn.GELU(), nn.Linear(64, 10))
    return layers.eval().requires_grad_(False)


def converted(name: str) -> ConvertedModel:
    manager = default_manager()
    float_model, x = model(), torch.randn(2, 200)
    with compiling.eager():
        found = survey(float_model, x, manager)
        policy = read_policy(POLICIES / f"{name}.yaml")
        return convert(float_model, found, assign(policy, found, manager))


@pytest.mark.parametrize("name", ["w8a16", "w4a16"])
def test_a_converted_model_keeps_its_values(name: str) -> None:
    emulated = converted(name)
    x = torch.randn(17, 200)
    with compiling.eager():
        expected = emulated(x)
    before = {key: emulated.model.get_parameter(f"{key}.weight") for key in ("0", "2")}
    assert replace_linears(emulated) == ("model.0", "model.2")
    for key, weight in before.items():
        layer = emulated.model.get_submodule(key)
        assert isinstance(layer, W8A16LinearLayer)
        assert torch.equal(layer.dequantize(), weight)
    torch.testing.assert_close(emulated(x), expected, rtol=2e-5, atol=2e-6)


def test_a_converted_model_with_quantized_inputs_stays() -> None:
    assert replace_linears(converted("int8_w8a8_dynamic")) == ()
    assert replace_linears(converted("fp8_e4m3_channel")) == ()


def test_float_models_are_quantized_in_place() -> None:
    plain, x = model(), torch.randn(5, 200)
    expected = plain(x)
    assert replace_linears(plain, bits=8) == ("0", "2")
    assert float((plain(x) - expected).norm() / expected.norm()) < 0.02


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_encoder_of_torch_calls_its_layers(padded: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    x = torch.randn(2, 5, 64)
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[1, 3:] = padded
    with torch.no_grad():
        expected = encoder(x, src_key_padding_mask=mask)
        assert len(replace_linears(encoder)) == 4
        calls: list[int] = []
        for module in encoder.modules():
            if isinstance(module, W8A16LinearLayer):
                module.register_forward_hook(lambda *_: calls.append(1))
        found = encoder(x, src_key_padding_mask=mask)
    assert len(calls) == 4
    error = (found - expected)[~mask]
    assert float(error.norm() / expected[~mask].norm()) < 0.02


def test_what_is_no_plain_linear_layer_stays() -> None:
    shared = nn.Linear(4, 4)
    parts = nn.ModuleDict(
        {
            "mha": nn.MultiheadAttention(4, 2),
            "own": Doubled(4, 4),
            "one": shared,
            "two": shared,
        }
    )
    assert replace_linears(parts) == ("one", "two")
    assert parts["one"] is parts["two"]
    with pytest.raises(LayerError, match="a model that is one linear layer"):
        replace_linears(nn.Linear(4, 4))
