"""The layers as kernels of policies: which they take, and models of the zoo that run in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from qbench_suite import LayerError, QuantModule, default_manager
from qbench_suite.convert.assign import assign
from qbench_suite.convert.kernels import attach_kernels
from qbench_suite.convert.policy import Policy
from qbench_suite.convert.survey import survey
from qbench_suite.convert.swap import ConvertedModel, convert
from qbench_suite.engine import Engine, Selection, Settings
from qbench_suite.layers import LinearMap
from qbench_suite.results import ModelRow
from qbench_suite.scaling import compiling
from qbench_suite.timing import Samples
from qbench_w8a16 import W8A16LinearLayer

POLICIES = Path(__file__).parents[3] / "plugins" / "qbench_policies"
MANAGER = default_manager()


def converted(policy: Policy, dtype: torch.dtype = torch.float32) -> ConvertedModel:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 64), nn.GELU(), nn.Linear(64, 10)).eval().to(dtype)
    with compiling.eager():
        found = survey(model, torch.randn(2, 200, dtype=dtype), MANAGER)
        return convert(model, found, assign(policy, found, MANAGER))


def policy(**keys: object) -> Policy:
    return Policy.model_validate({"weight_format": "int8", "weight_mode": "channel", **keys})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("bits", "format", "mode"),
    [
        (8, "int8", "channel"),
        (8, "int8", "chunk32"),
        (4, "int4", "chunk128"),
        (4, "int4", "channel"),
    ],
)
def test_codes_scales_and_bias_are_those_of_the_converted_layer(
    bits: int, format: str, mode: str, dtype: torch.dtype
) -> None:
    chosen = policy(
        weight_format=format, weight_mode=mode, output_format="int8", kernel=f"w{bits}a16"
    )
    model, emulated = converted(chosen, dtype), converted(chosen, dtype)
    assert attach_kernels(model, chosen, torch.device("cpu")) == {"0": "", "2": ""}
    for layer in model.layers.values():
        assert isinstance(layer, LinearMap)
        kernel, held = layer.kernel, layer.weight_record().result
        assert isinstance(kernel, W8A16LinearLayer)
        assert (kernel.bits, kernel.dtype) == (bits, dtype)
        assert torch.equal(kernel.scales, held.scale)
        assert torch.equal(kernel.dequantize().to(dtype), held.values)
        assert kernel.bias is not None
        assert layer.bias is not None
        assert torch.equal(kernel.bias, layer.bias)
    x = torch.randn(17, 200, dtype=dtype)
    with compiling.eager():
        error = (model(x) - emulated(x)).float().abs().max() / emulated(x).float().abs().max()
    assert error < (1 / 100 if dtype == torch.float32 else 1 / 30), "a code of the output at most"


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"input_format": "int8"}, "its inputs are float; those of this layer are quantized"),
        ({"weight_format": "int4"}, "its weight is int8; that of this layer is int4"),
        ({"weight_format": "fp8_e4m3"}, "its weight is int8; that of this layer is fp8_e4m3"),
        ({"weight_format": "uint8"}, "its weight is int8; that of this layer is uint8"),
        (
            {"weight_mode": "tensor"},
            "its scales lie along the inputs of each output; those of this layer are tensor",
        ),
        (
            {"weight_mode": "block32x32"},
            "its scales lie along the inputs of each output; those of this layer are block32x32",
        ),
    ],
    ids=str,
)
def test_what_it_does_not_compute_has_a_reason(keys: dict[str, str], reason: str) -> None:
    layer = converted(policy(**keys)).layers["2"]
    assert isinstance(layer, QuantModule)
    adopt = MANAGER.linears.get("w8a16").adopt
    assert adopt is not None
    with pytest.raises(LayerError, match=f"^{re.escape(reason)}$"):
        adopt(layer)


def test_layers_of_a_dtype_that_it_has_not_stay_emulated() -> None:
    layer = converted(policy(), torch.float64).layers["2"]
    assert isinstance(layer, QuantModule)
    adopt = MANAGER.linears.get("w8a16").adopt
    assert adopt is not None
    with pytest.raises(LayerError, match=r"float32, bfloat16 or float16; got torch\.float64"):
        adopt(layer)


@pytest.mark.parametrize("name", ["w8a16", "w4a16"])
@pytest.mark.parametrize(("model", "layers"), [("vit", 17), ("resnet", 1)])
def test_models_of_the_zoo_run_in_it_as_they_do_emulated(
    tmp_path: Path, name: str, model: str, layers: int
) -> None:
    text = (POLICIES / f"{name}.yaml").read_text(encoding="utf-8")
    (tmp_path / "emulated.yaml").write_text(text.replace(f"kernel: {name}", "kernel: none"))
    engine = Engine(MANAGER, Settings(images=100, eval_batch=50))
    rows = []
    for chosen in (name, str(tmp_path / "emulated.yaml")):
        (case,) = engine.model_cases(Selection(models=model, policies=chosen))
        with compiling.eager():
            row = engine.run(case, lambda function, before=None: Samples(()))
        assert isinstance(row, ModelRow)
        assert (row.outcome, row.compliant) == ("passed", True), row.reason
        rows.append(row)
    real, emulated = rows
    assert (real.kernel_layers, emulated.kernel_layers) == (layers, 0)
    assert (real.top1, real.weight_bits) == (emulated.top1, emulated.weight_bits)
    assert real.sqnr_db == pytest.approx(emulated.sqnr_db, abs=0.001)
    assert real.kl == pytest.approx(emulated.kl, rel=1e-3)
