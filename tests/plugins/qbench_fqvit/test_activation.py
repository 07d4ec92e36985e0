"""Tables of activations: nearest codes, and input ranges without their flat ends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qbench_fqvit import Scheme
from qbench_fqvit.activation import Table, activation_table
from qbench_suite import Range

ACTS = {
    "gelu": nn.GELU(),
    "tanh_gelu": nn.GELU("tanh"),
    "silu": nn.SiLU(),
    "relu": nn.ReLU(),
    "tanh": nn.Tanh(),
    "hardswish": nn.Hardswish(),
    "identity": nn.Identity(),
}


def table_of(act: nn.Module, low: float, high: float, scheme: Scheme) -> Table:
    written = act(torch.linspace(low, high, 1001))
    ends = [torch.tensor([v]) for v in (low, high)]
    outs = [written.min().clamp_max(0)[None], written.max().clamp_min(0)[None]]
    return activation_table(act, Range(*ends), Range(*outs), scheme)


@pytest.mark.parametrize("name", ACTS)
@pytest.mark.parametrize("scheme", [Scheme(), Scheme(folding=False)], ids=["affine", "symmetric"])
def test_a_table_errs_by_both_roundings_and_no_more(name: str, scheme: Scheme) -> None:
    act = ACTS[name]
    table = table_of(act, -9.0, 6.0, scheme)
    x = torch.linspace(-9.0, 6.0, 5001)
    error = (table(x) - act(x)).abs()
    # No activation here is steeper than 1.5; what rounds at the end of the grid may be a step off.
    assert float(error.max()) <= 1.5 * table.input.scale / 2 + 1.01 * table.output.scale
    assert table.codes.dtype == torch.int8
    assert -128 <= table.input.zero_point <= 127
    assert -128 <= table.output.zero_point <= 127


@pytest.mark.parametrize("name", ["gelu", "silu", "relu", "tanh"])
def test_flat_ends_are_left_out_and_cost_nothing(name: str) -> None:
    act = ACTS[name]
    table = table_of(act, -40.0, 6.0, Scheme())
    assert 255 * table.input.scale < 30
    flat = torch.linspace(-40.0, -20.0, 500)
    assert torch.equal(table(flat), table.output.values(table.output.codes(act(flat))))


def test_zero_is_exact_with_a_zero_point() -> None:
    table = table_of(nn.GELU(), -3.0, 7.0, Scheme())
    assert float(table(torch.zeros(1))) == 0.0
    assert table.input.zero_point != 0
    assert table.output.zero_point != 0


def test_scales_are_powers_of_two_on_request() -> None:
    table = table_of(nn.GELU(), -3.0, 7.0, Scheme(power_of_two=True))
    for scale in (table.input.scale, table.output.scale):
        assert torch.frexp(torch.tensor(scale)).mantissa == 0.5


def test_an_input_of_zeros_has_a_table() -> None:
    nothing = Range(torch.zeros(1), torch.zeros(1))
    table = activation_table(nn.GELU(), nothing, nothing, Scheme())
    values: Tensor = table(torch.zeros(3))
    assert values.tolist() == [0.0, 0.0, 0.0]
