"""Calibration: all batches count, the outcome is deterministic, bad input is named."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from timm.models import beit
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.data import DataLoader

from qbench_fqvit import QuantTimmVitBlock, Scheme, convert
from qbench_fqvit.calibration import calibration
from qbench_fqvit.families import describe
from qbench_fqvit.statistics import STREAM
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
    """Against a search by hand over the whole tensor at once; without folding for the whole range."""
    x = noise(6, 9, 24) * torch.logspace(-2, 1, 24)
    scheme = Scheme(folding=False)
    block = QuantTimmVitBlock.from_float(float_block, [x[:1], x[1:4], x[4:]], scheme)
    base = float(x.abs().max()) / 127 / 2**5
    assert torch.equal(block.norm1.shift.long(), errors_by_hand(x, base).argmin(0))
    assert len(block.norm1.shift.unique()) > 3
    torch.testing.assert_close(block.scales.input, base * torch.exp2(block.norm1.shift.float()))


def errors_by_hand(x: Tensor, base: float) -> Tensor:
    """Squared error of each channel for each exponent, (6, C)."""
    errors = []
    for exponent in range(6):
        step = base * 2**exponent
        rounded = (x / step).round().clamp(-128, 127) * step
        errors.append((rounded - x).square().flatten(0, -2).sum(0, dtype=torch.float64))
    return torch.stack(errors)


def test_the_whole_range_is_given_up_where_clipping_errs_less(float_block: nn.Module) -> None:
    """One share for input, middle and output, found by hand among those that are tried."""
    x = noise(40, 9, 24)
    x[0, 0] *= 1.5
    model, batches = nn.Sequential(float_block), [x[:7], x[7:]]
    seen = calibration(model, batches, Scheme())[0]["0"].seen
    whole = calibration(model, batches, Scheme(folding=False))[0]["0"].seen
    stages = {"input": x} | describe(float_block).stages(x)
    bases = {name: float(stages[name].abs().max()) / 127 / 2**5 for name in STREAM}
    shares = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
    errors = []
    for share in shares:
        found = [errors_by_hand(stages[name], share * bases[name]) for name in STREAM]
        errors.append(sum(float(error.amin(0).sum()) for error in found))
    best = shares[errors.index(min(errors))]
    assert best < 1
    for name in STREAM:
        assert seen.stream(name).scale == pytest.approx(best * bases[name], rel=1e-4)
        assert whole.stream(name).scale == pytest.approx(bases[name], rel=1e-4)
    chosen = errors_by_hand(x, best * bases["input"]).argmin(0)
    assert torch.equal(seen.stream("input").exponents, chosen)


@pytest.mark.parametrize("name", ["norm2.weight", "mlp.fc2.weight"])
def test_gains_whose_squares_overflow_still_give_a_block(float_block: nn.Module, name: str) -> None:
    float_block.get_parameter(name).mul_(1e30)
    x = noise(4, 9, 24)
    block = QuantTimmVitBlock.from_float(float_block, [x])
    exact = float_block(x).double()
    found = block.dequantize_output(block(block.quantize_input(x))).double()
    assert float((found - exact).norm() / exact.norm()) < 0.05


def test_a_gain_that_is_not_finite_names_the_norm(float_block: nn.Module) -> None:
    float_block.get_parameter("norm2.weight")[3] = float("inf")
    with pytest.raises(ConversionError, match="tensor 'norm2' of block '0'"):
        QuantTimmVitBlock.from_float(float_block, [noise(4, 9, 24)])


def test_activations_too_small_for_any_scale_are_refused(float_block: nn.Module) -> None:
    with pytest.raises(ConversionError, match="'norm1' of block '0' fit 32 bits"):
        QuantTimmVitBlock.from_float(Block(24, 2).eval(), [noise(2, 9, 24) * 1e-42])


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
    ("field", "value"),
    [
        ("ptf", 9),
        ("ptf", 2.0),
        ("ptf", True),
        ("softmax", "lis8"),
        ("residual_bits", 12),
        ("folding", 1),
        ("power_of_two", None),
    ],
)
def test_a_scheme_outside_its_domain_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ConversionError, match=rf"Scheme\.{field} is one of .* got {value!r}"):
        Scheme(**{field: value})  # type: ignore[arg-type]


def test_an_observer_is_a_rule_and_no_name() -> None:
    with pytest.raises(ConversionError, match=r"Scheme\.observer is a range rule.* got 'mse'"):
        Scheme(observer="mse")  # type: ignore[arg-type]


def test_what_is_no_scheme_is_refused(float_block: nn.Module) -> None:
    for scheme in ({"ptf": 3}, {}):
        with pytest.raises(ConversionError, match="by a Scheme; got dict"):
            convert(nn.Sequential(float_block), [noise(2, 9, 24)], scheme)  # type: ignore[arg-type]


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


def test_a_mask_from_the_second_batch_on_is_noticed(float_block: nn.Module) -> None:
    integer = convert(Sometimes(float_block), [noise(4, 9, 24), noise(3, 9, 24)])
    assert list(integer.blocks) == ["plain"]
    assert "mask" in integer.refused["masked"]


class Sometimes(nn.Module):
    """Masks its second block for batches of three."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.plain, self.masked = plain, Block(24, 2).eval()

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros(x.shape[1], x.shape[1]) if x.shape[0] == 3 else None
        out: Tensor = self.masked(self.plain(x), attn_mask=mask)
        return out


def test_a_second_reading_that_goes_another_way_is_refused(float_block: nn.Module) -> None:
    class Changing:
        readings = 0

        def __iter__(self) -> Iterator[Tensor]:
            self.readings += 1
            return iter([noise(3 if self.readings > 1 else 4, 9, 24)])

    with pytest.raises(ConversionError, match=r"Every reading of the batches.*block 'plain'"):
        convert(Sometimes(float_block), Changing())


def test_a_shared_bias_is_the_same_at_every_call(zoo: Any) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = zoo.randomized(beit.Block(24, 2, qkv_bias=True))

        def forward(self, x: Tensor) -> Tensor:
            bias = torch.ones(2, 9, 9) * (x.shape[0] == 3)
            out: Tensor = self.block(x, shared_rel_pos_bias=bias)
            return out

    assert convert(Shared(), [noise(4, 9, 24), noise(4, 9, 24)]).refused == {}
    with pytest.raises(ConversionError, match="differs from call to call"):
        convert(Shared(), [noise(4, 9, 24), noise(3, 9, 24)])


def test_batches_that_can_be_read_once_are_refused(float_block: nn.Module) -> None:
    model, x = nn.Sequential(float_block), noise(4, 9, 24)
    for batches, kind in ((iter([x]), "list_iterator"), (x, "Tensor"), (None, "NoneType")):
        with pytest.raises(ConversionError, match=f"reads its batches twice.*got {kind}"):
            convert(model, batches)  # type: ignore[arg-type]


def test_what_is_no_batch_of_images_is_refused(float_block: nn.Module) -> None:
    model, x = nn.Sequential(float_block), noise(4, 9, 24)
    for batch, kind in (((x, torch.zeros(4)), "tuple"), (None, "NoneType"), (x.sum(), "Tensor")):
        with pytest.raises(ConversionError, match=f"is a tensor of images.*got {kind}"):
            convert(model, [x, batch])  # type: ignore[list-item]
    assert model[0] is float_block


def test_a_loader_calibrates(float_block: nn.Module) -> None:
    model, x = nn.Sequential(float_block), noise(6, 9, 24)
    loader: Any = DataLoader(x, batch_size=4)  # type: ignore[arg-type]
    assert states_equal(convert(model, loader).module, convert(model, [x[:4], x[4:]]).module)


def test_a_model_that_is_a_block_itself_is_refused(float_block: nn.Module) -> None:
    with pytest.raises(ConversionError, match="got a Block, one itself"):
        convert(float_block, [noise(2, 9, 24)])


def test_a_model_without_values_is_refused(float_block: nn.Module) -> None:
    with pytest.raises(ConversionError, match="meta device"):
        convert(nn.Sequential(copy.deepcopy(float_block).to("meta")), [noise(2, 9, 24)])
