"""W8A16LinearLayer: its weights, its errors, and that it is a module like any other."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qbench_suite import Axes, LayerError, Quantizer, default_manager
from qbench_suite.scaling import compiling
from qbench_w8a16 import W8A16LinearLayer
from qbench_w8a16.codes import packed, unpacked

SCHEMES = [(8, None), (8, 32), (4, None), (4, 6)]
IDS = ["w8", "w8-groups", "w4", "w4-small-groups"]


def made(
    bits: int = 8, group: int | None = None, dtype: torch.dtype = torch.float32
) -> W8A16LinearLayer:
    torch.manual_seed(0)
    return W8A16LinearLayer.from_float(nn.Linear(70, 9), bits=bits, group_size=group, dtype=dtype)


def sqnr_db(reference: torch.Tensor, found: torch.Tensor) -> float:
    error = (found - reference).double().square().mean()
    return float(10 * torch.log10(reference.double().square().mean() / error))


@pytest.mark.parametrize(
    ("bits", "mode"), [(8, "channel"), (8, "chunk32"), (4, "chunk128"), (4, "channel")]
)
def test_weights_are_those_of_the_format_in_the_mode(bits: int, mode: str) -> None:
    manager = default_manager()
    weights = torch.randn(11, 200) * torch.logspace(-6, 6, 11)[:, None]
    weights[3] = 0
    group = int(mode.removeprefix("chunk")) if "chunk" in mode else 200
    layer = W8A16LinearLayer(200, 11, bits=bits, group_size=group)
    layer.quantize(weights)
    quantizer = Quantizer(manager.formats.get(f"int{bits}"), manager.modes.get(mode))
    with compiling.eager():
        expected = quantizer.fake_quantize(weights, Axes(0, 1, None, ()))
    assert torch.equal(layer.dequantize(), expected.values)
    assert torch.equal(layer.scales, expected.scale)


def test_a_weight_is_off_by_half_a_scale_at_most() -> None:
    weights = torch.randn(64, 4096)
    layer = W8A16LinearLayer(4096, 64)
    layer.quantize(weights)
    error = (layer.dequantize().double() - weights).abs()
    # Half a scale, and the rounding of quotient and product in float32.
    assert bool((error <= layer.scales.double() / 2 + weights.abs() * 2**-22).all())
    assert torch.equal(layer.scales, weights.abs().amax(1, keepdim=True) / 127)


def test_gaussian_weights_keep_41_db() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(4096, 256, bias=False).requires_grad_(False)
    nn.init.normal_(linear.weight)
    layer = W8A16LinearLayer.from_float(linear)
    weights = layer.dequantize()
    assert sqnr_db(linear.weight, weights) >= 41.0
    crest = linear.weight.abs().amax(1) / linear.weight.square().mean(1).sqrt()
    theory = 10 * torch.log10(12 * 127**2 / crest.square().mean())
    assert sqnr_db(linear.weight, weights) == pytest.approx(float(theory), abs=0.3)
    x = torch.randn(64, 4096)
    reference = F.linear(x, linear.weight)
    assert sqnr_db(reference, layer.to(torch.float32)(x)) >= 41.0


def test_zero_rows_have_scale_1_and_give_the_bias() -> None:
    layer = W8A16LinearLayer(8, 3, dtype=torch.float32)
    layer.quantize(torch.zeros(3, 8))
    assert torch.equal(layer.scales, torch.ones(3, 1))
    assert torch.equal(layer(torch.randn(2, 8)), torch.zeros(2, 3))


def test_subnormal_weights_stay_finite() -> None:
    layer = W8A16LinearLayer(8, 1, dtype=torch.float32)
    layer.quantize(torch.full((1, 8), 1e-45))
    assert bool(torch.isfinite(layer.dequantize()).all())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    layer = made()
    before = layer.codes.clone()
    weights = torch.ones(9, 70)
    weights[2, 5] = value
    with pytest.raises(LayerError, match="1 of 630 are NaN or infinite"):
        layer.quantize(weights)
    assert torch.equal(layer.codes, before)


@pytest.mark.parametrize("width", [1, 2, 7, 8])
def test_packing_is_undone(width: int) -> None:
    codes = torch.randint(-8, 8, (3, width), dtype=torch.int8)
    assert packed(codes).shape == (3, (width + 1) // 2)
    assert torch.equal(unpacked(packed(codes), width), codes)
    assert int(packed(torch.tensor([[1, -1]], dtype=torch.int8))) == 0xF1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("bits", "group"), SCHEMES, ids=IDS)
def test_inputs_have_any_leading_dims_and_strides(
    bits: int, group: int | None, dtype: torch.dtype
) -> None:
    layer = made(bits, group, dtype)
    x = torch.randn(2, 3, 70).to(dtype)
    flat = layer(x.reshape(6, 70))
    assert torch.equal(layer(x), flat.view(2, 3, 9))
    assert layer(x[0, 0]).shape == (9,)
    assert layer(x[:0]).shape == (0, 3, 9)
    strided = torch.stack((x, x), -1)[..., 0]
    assert not strided.is_contiguous()
    assert torch.equal(layer(strided), flat.view(2, 3, 9))
    assert torch.equal(layer(x.transpose(0, 1)), flat.view(2, 3, 9).transpose(0, 1))
    assert layer(x).dtype == dtype


def test_nan_and_infinity_spread_along_their_row_alone() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        layer = made(dtype=dtype)
        x = torch.randn(9, 70).to(dtype)
        expected = layer(x)
        x[1, 69], x[7, 3] = float("nan"), float("inf")
        found = layer(x)
        assert bool(found[1].isnan().all())
        assert not bool(found[7].isfinite().any())
        others = [0, 2, 3, 4, 5, 6, 8]
        assert torch.equal(found[others], expected[others])


def test_infinity_does_not_leak_out_of_its_group() -> None:
    layer = made(8, 6)
    layer.codes[:, 60:] = 0
    x = torch.zeros(1, 70)
    x[0, 6] = float("inf")
    assert bool(layer(x).isinf().all())


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.ones(2, 69), r"\(2, 69\) of torch\.float32"),
        (torch.ones(2, 70, dtype=torch.bfloat16), "torch.bfloat16"),
        (torch.ones(2, 70, dtype=torch.float64), "torch.float64"),
        (torch.ones(2, 70, dtype=torch.int64), "torch.int64"),
        (torch.tensor(1.0), r"\(\)"),
    ],
)
def test_other_inputs_are_refused(x: torch.Tensor, said: str) -> None:
    with pytest.raises(LayerError, match=rf"Inputs are \(…, 70\) of torch.float32; got .*{said}"):
        made()(x)


def test_other_sizes_and_dtypes_are_refused() -> None:
    for arguments in ((0, 4), (4, 0)):
        with pytest.raises(LayerError, match="has inputs and outputs"):
            W8A16LinearLayer(*arguments)
    with pytest.raises(LayerError, match="got bits=3"):
        W8A16LinearLayer(4, 4, bits=3)
    with pytest.raises(LayerError, match=r"got torch\.float64"):
        W8A16LinearLayer(4, 4, dtype=torch.float64)
    with pytest.raises(LayerError, match="group_size is positive"):
        W8A16LinearLayer(4, 4, group_size=-1)
    with pytest.raises(LayerError, match="two weights share a byte"):
        W8A16LinearLayer(40, 4, bits=4, group_size=5)
    with pytest.raises(LayerError, match=r"got torch.float32 \(70, 9\)"):
        made().quantize(torch.ones(70, 9))
    with pytest.raises(LayerError, match="got Conv2d"):
        W8A16LinearLayer.from_float(nn.Conv2d(1, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(LayerError, match=r"got torch\.float8_e5m2"):
        made().to(torch.float8_e5m2)
    for sizes in ((8.5, 4), ("8", 4), (8, None)):
        with pytest.raises(LayerError, match="Give both as integers"):
            W8A16LinearLayer(*sizes)
    with pytest.raises(LayerError, match=r"got bits=8\.0"):
        W8A16LinearLayer(4, 4, bits=8.0)  # type: ignore[arg-type]
    for group in (0, 2.0, "x"):
        with pytest.raises(LayerError, match="group_size is positive"):
            W8A16LinearLayer(4, 4, group_size=group)  # type: ignore[arg-type]


def test_codes_beyond_the_format_are_refused() -> None:
    for codes, bits in ((torch.tensor([[-128, 1]]), 8), (torch.tensor([[8, 1]]), 4)):
        with pytest.raises(LayerError, match=f"Codes of {bits} bits lie within"):
            W8A16LinearLayer.from_codes(
                codes.to(torch.int8), torch.ones(1, 1), None, dtype=torch.float32, bits=bits
            )


def test_codes_scales_and_bias_that_make_no_layer_are_refused() -> None:
    codes, scales = torch.ones(4, 8, dtype=torch.int8), torch.ones(4, 1)
    cases = (
        (codes.float(), scales, None, "Codes are integers"),
        (codes[0], scales, None, "Codes are integers"),
        (codes, torch.full((4, 1), float("nan")), None, "4 of 4 are NaN"),
        (codes, scales, torch.ones(1), r"\(4,\); got \(1,\)"),
        (codes, scales[:3], None, r"scales \(3, 1\)"),
    )
    for held, by, bias, said in cases:
        with pytest.raises(LayerError, match=said):
            W8A16LinearLayer.from_codes(held, by, bias, dtype=torch.float32)


@pytest.mark.parametrize(("bits", "group"), SCHEMES, ids=IDS)
def test_a_state_dict_is_reloaded_bit_for_bit(bits: int, group: int | None) -> None:
    layer, x = made(bits, group), torch.randn(5, 70)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    fresh = W8A16LinearLayer(70, 9, dtype=torch.float32, bits=bits, group_size=group)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert set(layer.state_dict()) == {"codes", "scales", "bias", "_extra_state"}
    assert torch.equal(fresh(x), layer(x))


def test_a_state_dict_of_other_bits_is_refused() -> None:
    with pytest.raises(LayerError, match=r"uint8 in 0\.codes"):
        nn.Sequential(made(8)).load_state_dict(nn.Sequential(made(4)).state_dict())


@pytest.mark.parametrize(
    ("width", "group", "found"), [(300, 100, r"\[4, 300, 128\]"), (299, 128, r"\[4, 300, 128\]")]
)
def test_a_state_dict_of_another_layout_is_refused(width: int, group: int, found: str) -> None:
    saved = W8A16LinearLayer(300, 9, bits=4, dtype=torch.float32)
    saved.quantize(torch.randn(9, 300))
    layer = W8A16LinearLayer(width, 9, bits=4, group_size=group, dtype=torch.float32)
    assert layer.codes.shape == saved.codes.shape
    before = layer.codes.clone()
    with pytest.raises(LayerError, match=f"got {found}"):
        layer.load_state_dict(saved.state_dict())
    assert torch.equal(layer.codes, before)
    without = {k: v for k, v in layer.state_dict().items() if k != "_extra_state"}
    with pytest.raises(RuntimeError, match="_extra_state"):
        layer.load_state_dict(without)


@pytest.mark.parametrize("assign", [False, True])
def test_scales_of_another_dtype_are_loaded_as_float32(assign: bool) -> None:
    layer, x = made(), torch.randn(3, 70)
    rounded = {k: v.bfloat16() if k == "scales" else v for k, v in layer.state_dict().items()}
    fresh = W8A16LinearLayer(70, 9, dtype=torch.float32)
    fresh.load_state_dict(rounded, assign=assign)
    assert fresh.scales.dtype == torch.float32
    assert float((fresh(x) - layer(x)).norm() / layer(x).norm()) < 2**-8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_an_exported_program_is_converted(dtype: torch.dtype) -> None:
    layer, x = made(), torch.randn(3, 70)
    program = torch.export.export(nn.Sequential(layer), (x,)).module().to(dtype)
    found = program(x.to(dtype)).float()
    assert float((found - layer(x)).norm() / layer(x).norm()) < 2**-6


def test_a_model_is_converted_to_float64_as_a_whole() -> None:
    layer, x = made(), torch.randn(3, 70, dtype=torch.float64)
    expected = x @ layer.dequantize().double().T
    model = nn.Sequential(layer).double()
    assert layer.bias is not None
    torch.testing.assert_close(model(x), expected + layer.bias, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("bits", "group"), SCHEMES, ids=IDS)
@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_gradients_are_those_of_the_weights(
    bits: int, group: int | None, backend: str | None
) -> None:
    layer = made(bits, group)
    assert layer.bias is not None
    layer.bias.requires_grad_(True)
    bias = layer.bias.detach().clone().requires_grad_(True)
    first, second = (torch.full((2, 3, 70), 0.5, requires_grad=True) for _ in range(2))
    run = torch.compile(layer, backend=backend, fullgraph=True) if backend else layer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(first).square().sum().backward()
    F.linear(second, layer.dequantize(), bias).square().sum().backward()
    assert first.grad is not None
    torch.testing.assert_close(first.grad, second.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.bias.grad, bias.grad, rtol=1e-4, atol=1e-5)


def test_gradients_pass_the_numerical_check_and_reach_earlier_layers() -> None:
    layer = made().double()
    x = torch.randn(2, 70, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    model = nn.Sequential(nn.Linear(8, 70), made())
    model(torch.randn(2, 8)).sum().backward()
    grad = model[0].weight.grad
    assert isinstance(grad, torch.Tensor)
    assert float(grad.abs().sum()) > 0
    layer.scales.requires_grad_(True)
    with pytest.raises(LayerError, match="Scales have no gradient"):
        layer(x).sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_that_of_a_float_layer(dtype: torch.dtype) -> None:
    layer, plain = made(), nn.Linear(70, 9)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for x in (torch.randn(3, 70), torch.randn(3, 70).to(dtype)):
        with torch.autocast("cpu", dtype):
            found = layer(x)
            assert found.dtype == plain(x).dtype == dtype
            assert torch.equal(compiled(x), found)
        expected = layer(x.to(dtype).float())
        assert float((found - expected).norm() / expected.norm()) < 2**-6
    with torch.autocast("cpu", dtype), pytest.raises(LayerError, match="Inputs are"):
        layer(torch.ones(3, 70, dtype=torch.int64))


def test_inputs_on_another_device_are_refused() -> None:
    layer = made().to("meta")
    with pytest.raises(LayerError, match="inputs on cpu, codes on meta"):
        layer(torch.ones(2, 70))
    with pytest.raises(LayerError, match="inputs on meta, codes on cpu"):
        made()(torch.ones(2, 70, device="meta"))
    assert layer(torch.ones(2, 70, device="meta")).is_meta


def test_weight_is_what_the_layer_computes_with() -> None:
    layer = made(dtype=torch.bfloat16)
    assert torch.equal(layer.weight, layer.dequantize().bfloat16())


@pytest.mark.parametrize(("bits", "group"), SCHEMES, ids=IDS)
def test_it_is_copied_and_pickled(bits: int, group: int | None) -> None:
    layer, x = made(bits, group), torch.randn(5, 70)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), layer(x))


def test_a_dtype_changes_activations_and_not_weights() -> None:
    layer = made()
    weights = layer.dequantize()
    model = nn.Sequential(layer).to(torch.bfloat16)
    assert layer.dtype == torch.bfloat16
    assert layer.scales.dtype == torch.float32
    assert model(torch.randn(2, 70, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert torch.equal(layer.dequantize(), weights)
    assert model.float()(torch.randn(2, 70)).dtype == torch.float32
    assert torch.equal(layer.dequantize(), weights)
    assert layer.to("meta").codes.is_meta
    assert layer.dtype == torch.float32


def test_it_works_in_a_sequential_and_is_not_trained() -> None:
    model = nn.Sequential(nn.LayerNorm(70), made(), nn.GELU(), nn.Linear(9, 2))
    assert model(torch.randn(4, 70)).shape == (4, 2)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        "0.weight",
        "0.bias",
        "3.weight",
        "3.bias",
    }


@pytest.mark.parametrize(("bits", "group"), SCHEMES, ids=IDS)
def test_it_is_exported_with_any_batch(bits: int, group: int | None) -> None:
    model = nn.Sequential(made(bits, group), nn.ReLU()).eval()
    rows = torch.export.Dim("rows", min=1, max=64)
    program = torch.export.export(model, (torch.randn(3, 70),), dynamic_shapes=({0: rows},))
    assert "qbench_w8a16.linear" in str(program.graph)
    x = torch.randn(11, 70)
    assert torch.equal(program.module()(x), model(x))


def test_it_is_compiled_in_one_graph() -> None:
    model = nn.Sequential(made(), nn.ReLU(), W8A16LinearLayer.from_float(nn.Linear(9, 3))).eval()
    model.to(torch.float32)

    # A function of its own: torch may have given up on nn.Sequential's code, which all of them share.
    def run(x: Tensor) -> Tensor:
        result: Tensor = model(x)
        return result

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for rows in (2, 5):
            x = torch.randn(rows, 70)
            assert torch.equal(compiled(x), model(x))


def test_storage_counts_codes_and_scales() -> None:
    eight, four = W8A16LinearLayer(4096, 1024), W8A16LinearLayer(4096, 1024, bits=4)
    assert eight.storage().float32 / eight.storage().stored == pytest.approx(4, rel=2e-3)
    assert eight.storage().float16 / eight.storage().stored == pytest.approx(2, rel=2e-3)
    assert eight.storage().stored == 4096 * 1024 + 4 * 1024
    assert four.storage().stored == 4096 * 1024 // 2 + 4 * 1024 * 32
    assert "bits=4, group_size=128" in repr(four)
