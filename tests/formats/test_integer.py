"""IntFormat: integers, saturation, and two's complement codes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench_formats import FORMATS
from qbench_suite import FormatError, IntFormat, Rounding

INTEGERS = {f.name: f for f in FORMATS if isinstance(f, IntFormat)}


@pytest.mark.parametrize("name", INTEGERS)
def test_nearest_equals_numpy(name: str, dense: Tensor) -> None:
    format = INTEGERS[name]
    expected = np.clip(np.rint(dense.numpy()), format.low, format.high)
    assert np.array_equal(format.round(dense).numpy(), expected)


@pytest.mark.parametrize("rounding", ["nearest", "away", "truncate"])
@pytest.mark.parametrize("name", INTEGERS)
def test_rounding_equals_exact_fractions(
    name: str,
    rounding: str,
    hard: Callable[[IntFormat], Tensor],
    exact: Callable[[IntFormat, float, Rounding], float],
) -> None:
    format = INTEGERS[name]
    x = hard(format)
    got = format.variant(rounding).round(x)
    assert got.tolist() == [exact(format, v, Rounding(rounding)) for v in x.tolist()]


@pytest.mark.parametrize("rounding", ["nearest", "away", "truncate"])
@pytest.mark.parametrize("name", INTEGERS)
def test_integers_have_no_negative_zero(name: str, rounding: str) -> None:
    format = INTEGERS[name].variant(rounding)
    rounded = format.round(torch.tensor([-0.0, -0.25, 0.0, 0.25]))
    assert rounded.view(torch.int32).tolist() == [0, 0, 0, 0]
    assert not format.has_negative_zero


@pytest.mark.parametrize("rounding", ["nearest", "away", "truncate"])
def test_infinities_saturate_and_nan_stays(rounding: str) -> None:
    format = INTEGERS["int8"].variant(rounding)
    rounded = format.round(torch.tensor([torch.inf, -torch.inf, torch.nan]))
    assert rounded[:2].tolist() == [127.0, -127.0]
    assert rounded[2].isnan()


def test_codes_are_twos_complement_and_the_most_negative_one_is_unused() -> None:
    int4 = INTEGERS["int4"]
    codes = torch.arange(16)
    signed = torch.where(codes < 8, codes, codes - 16).to(torch.float32)
    decoded = int4.decode(codes)
    assert decoded[8].isnan()
    used = codes != 8
    assert torch.equal(decoded[used], signed[used])
    assert torch.equal(int4.encode(signed[used]), codes[used].to(torch.uint8))


@pytest.mark.parametrize("name", INTEGERS)
def test_contains_holds_exactly_for_the_integers_in_range(name: str) -> None:
    format = INTEGERS[name]
    x = torch.arange(-600, 600).to(torch.float32) / 2
    expected = [v == int(v) and format.low <= v <= format.high for v in x.tolist()]
    assert format.contains(x).tolist() == expected
    assert not format.contains(torch.tensor([torch.nan, torch.inf, -torch.inf])).any()


@pytest.mark.parametrize(
    ("bits", "low", "high"), [(4, -8, 8), (4, -9, 7), (8, 0, 256), (8, 1, 127), (8, 5, 4)]
)
def test_ranges_that_do_not_fit_are_refused(bits: int, low: int, high: int) -> None:
    with pytest.raises(
        FormatError, match=rf"must fit {bits} bits, and float32; 'odd' has {low} … {high}"
    ):
        IntFormat(name="odd", bits=bits, low=low, high=high)


def test_a_signed_format_may_use_the_most_negative_code() -> None:
    full = IntFormat(name="int8full", bits=8, low=-128, high=127)
    assert len(full.values) == 256
    assert full.max == 128
    assert full.decode(torch.tensor([128])).item() == -128


def test_a_subclass_with_its_own_round_is_what_the_kernel_runs() -> None:
    class Even(IntFormat):
        def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
            return super().round(x / 2) * 2

    kernel = Even(name="even", bits=4, low=-7, high=7).round_kernel(torch.device("cpu"))
    rounded = kernel.function(torch.tensor([3.0, 4.9]), None, *kernel.constants)
    assert rounded.tolist() == [4.0, 4.0]
