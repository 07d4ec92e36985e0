"""Calibration: all batches count, the outcome is deterministic, bad input is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from qbench_fqvit import QuantTimmVitBlock, Scheme, convert
from qbench_fqvit.calibration import calibration
from qbench_suite import ConversionError
from qbench_suite.manager import default_manager
from qbench_suite.scaling.compiling import eager


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def states_equal(left: nn.Module, right: nn.Module) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def float_block(zoo: Any) -> nn.Module:
    made: nn.Module = zoo.randomized(Block(24, 2, qkv_bias=True))
    return made


def test_every_batch_counts(float_block: nn.Module) -> None:
    """The largest values come first, so that a rule of the last batch would clip them."""
    x = noise(6, 9, 24)
    first = [x[:2] * 10, x[2:4], x[4:]]
    last = [x[2:4], x[4:], x[:2] * 10]
    found = [QuantTimmVitBlock.from_float(float_block, batches) for batches in (first, last)]
    assert torch.equal(found[0].scales.input, found[1].scales.input)
    assert torch.equal(found[0].norm1.shift, found[1].norm1.shift)
    codes = found[0].quantize_input(x[:2] * 10)
    assert 120 <= int(codes.abs().max()) <= 128


def test_exponents_err_least_over_all_batches(float_block: nn.Module) -> None:
    """Against a search by hand over the whole tensor at once."""
    x = noise(6, 9, 24) * torch.logspace(-2, 1, 24)
    block = QuantTimmVitBlock.from_float(float_block, [x[:1], x[1:4], x[4:]])
    base = float(x.abs().max()) / 127 / 2**5
    errors = []
    for exponent in range(6):
        step = base * 2**exponent
        rounded = (x / step).round().clamp(-128, 127) * step
        errors.append((rounded - x).square().sum((0, 1), dtype=torch.float64))
    assert torch.equal(block.norm1.shift.long(), torch.stack(errors).argmin(0))
    assert len(block.norm1.shift.unique()) > 3
    torch.testing.assert_close(block.scales.input, base * torch.exp2(block.norm1.shift.float()))


def test_it_is_deterministic_and_leaves_the_model_as_it_was(float_block: nn.Module) -> None:
    model = nn.Sequential(float_block, nn.LayerNorm(24)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = [noise(4, 9, 24)]
    first, second = convert(model, x), convert(model, x)
    assert states_equal(first.module, second.module)
    assert model.training
    assert model[0] is float_block
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    found, refused = calibration(model, x, Scheme())
    assert model[0] is float_block
    assert model.training
    assert list(found) == ["0"]
    assert not refused


def test_a_failed_calibration_puts_the_blocks_back(float_block: nn.Module) -> None:
    model = nn.Sequential(float_block)
    with pytest.raises(ConversionError):
        calibration(model, [noise(2, 9, 24) * float("nan")], Scheme())
    assert model[0] is float_block


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_names_block_and_tensor(
    float_block: nn.Module, bad: float
) -> None:
    x = noise(4, 9, 24)
    x[3, 2, 1] = bad
    with pytest.raises(ConversionError, match="tensor 'input' of block '0' holds NaN or ±Inf"):
        QuantTimmVitBlock.from_float(float_block, [x[:2], x[2:]])


def test_an_overflow_within_the_block_names_its_tensor(float_block: nn.Module) -> None:
    float_block.get_parameter("mlp.fc1.weight").fill_(3e38)
    with pytest.raises(ConversionError, match="tensor 'fc1' of block '0'"):
        QuantTimmVitBlock.from_float(float_block, [noise(4, 9, 24)])


def test_without_an_image_there_is_no_calibration(float_block: nn.Module) -> None:
    for batches in ([], [noise(0, 9, 24)]):
        with pytest.raises(ConversionError, match="at least one image"):
            QuantTimmVitBlock.from_float(float_block, batches)


def test_one_image_works_with_a_warning(float_block: nn.Module, zoo: Any) -> None:
    x = noise(1, 9, 24)
    with pytest.warns(RuntimeWarning, match="one image"):
        block = QuantTimmVitBlock.from_float(float_block, [x])
    found = block.dequantize_output(block(block.quantize_input(x)))
    assert zoo.sqnr_db(float_block(x), found) > 30


def test_scales_that_lie_too_far_apart_are_refused(float_block: nn.Module) -> None:
    """A norm that gives nothing before weights of 1e12: no 32-bit factor leads to the output's."""
    for name, value in (("norm1.weight", 0), ("norm1.bias", 0), ("attn.qkv.weight", 1e12)):
        float_block.get_parameter(name).fill_(value)
    with pytest.raises(ConversionError, match="factor of 'qkv_act' of block '0' is below 2"):
        QuantTimmVitBlock.from_float(float_block, [noise(2, 9, 24)])


def test_a_dead_block_stays_finite(zoo: Any) -> None:
    """Zero weights, zero gammas: no scale follows from the data."""
    dead = Block(24, 2, qkv_bias=True).eval()
    for value in dead.parameters():
        value.zero_()
    x = noise(2, 9, 24)
    block = QuantTimmVitBlock.from_float(dead, [x])
    assert zoo.sqnr_db(x, block.dequantize_output(block(block.quantize_input(x)))) > 30
    nothing = QuantTimmVitBlock.from_float(dead, [torch.zeros(2, 9, 24)])
    assert not nothing(torch.zeros(2, 9, 24, dtype=torch.int8)).any()


@pytest.mark.parametrize("rule", ["absmax", "percentile99.9", "mse"])
def test_any_range_rule_observes(zoo: Any, float_block: nn.Module, rule: str) -> None:
    observer = default_manager().range_rules.get(rule)
    x = noise(4, 9, 24)
    with eager():
        block = QuantTimmVitBlock.from_float(float_block, [x[:2], x[2:]], Scheme(observer=observer))
    plain = QuantTimmVitBlock.from_float(float_block, [x[:2], x[2:]])
    exact = block.float_stages(x)["output"] - x
    codes = block.quantize_input(x)
    found = block.dequantize_output(block(codes)) - block.scales.value("input", codes)
    assert zoo.sqnr_db(exact, found) > 25
    same = torch.equal(block.scales.norm1, plain.scales.norm1)
    assert same == (not rule.startswith("percentile"))


def test_every_factor_is_a_power_of_two_on_request(float_block: nn.Module, zoo: Any) -> None:
    x = noise(4, 9, 24)
    block = QuantTimmVitBlock.from_float(float_block, [x], Scheme(power_of_two=True))
    factors = [value for name, value in block.state_dict().items() if "multiplier" in name]
    assert len(factors) == 8
    assert all(int((factor & (factor - 1)).count_nonzero()) == 0 for factor in factors)
    found = block.dequantize_output(block(block.quantize_input(x)))
    assert zoo.sqnr_db(float_block(x), found) > 27


@pytest.mark.parametrize(
    ("field", "value"), [("ptf", 9), ("softmax_bits", 5), ("residual_bits", 12)]
)
def test_a_scheme_outside_its_domain_is_refused(field: str, value: int) -> None:
    with pytest.raises(ConversionError, match=rf"Scheme\.{field} is one of .* got {value}"):
        Scheme(**{field: value})  # type: ignore[arg-type]


def test_a_norm_too_wide_for_64_bits_is_refused() -> None:
    wide = Block(4096, 1, mlp_ratio=0.01).eval()
    with pytest.raises(ConversionError, match=r"smaller Scheme\.ptf"):
        QuantTimmVitBlock.from_float(wide, [noise(2, 2, 4096)], Scheme(residual_bits=16))


def test_a_block_that_is_never_run_stays_float(float_block: nn.Module, zoo: Any) -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = float_block, Block(24, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.first(x)
            return out

    integer = convert(Skips(), [noise(2, 9, 24)])
    assert list(integer.blocks) == ["first"]
    assert integer.refused == {"second": "calibration never reached it"}


def test_a_block_with_hooks_of_its_own_stays_float(float_block: nn.Module) -> None:
    other = Block(24, 2)
    other.register_forward_hook(lambda module, inputs, output: output * 2)
    integer = convert(nn.Sequential(float_block, other), [noise(2, 9, 24)])
    assert list(integer.blocks) == ["0"]
    assert "computes something else" in integer.refused["1"]


def test_a_masked_block_stays_float(float_block: nn.Module) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain, self.masked = float_block, Block(24, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.masked(self.plain(x), is_causal=True)
            return out

    integer = convert(Masked(), [noise(2, 9, 24)])
    assert list(integer.blocks) == ["plain"]
    assert "mask" in integer.refused["masked"]
