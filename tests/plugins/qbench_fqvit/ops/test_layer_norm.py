"""Integer layer normalization: equal to the oracle, and close to the float one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from qbench_fqvit import ops

KINDS = ("random", "lowest", "highest", "zero", "constant rows", "sparse")


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.integers(0, 2**30),
    st.integers(1, 4),
    st.one_of(st.integers(1, 200), st.sampled_from([1000, 1001, 1408])),
    st.sampled_from(KINDS),
    st.sampled_from([torch.int8, torch.int16]),
    st.integers(0, 8),
)
def test_bits(
    agree: Callable[..., Tensor], values: Any, seed: int, rows: int, channels: int, kind: str,
    dtype: torch.dtype, most: int,
) -> None:  # fmt: skip
    make = values(seed)
    # The promise: channels times the largest value stay within 2^31.
    largest = 7 if dtype is torch.int8 else 15
    most = min(most, 31 - largest - (channels - 1).bit_length())
    x = make.codes(kind, rows, channels, dtype=dtype)
    shift = make.between(0, most, channels, dtype=torch.int8)
    gain = make.between(-(2**31), 2**31 - 1, channels) >> make.between(0, 24, channels)
    bias = make.between(-(2**31), 2**31 - 1, channels) >> make.between(0, 31, channels)
    agree("layer_norm", x, shift, gain, bias)


@pytest.mark.parametrize("exponent", [7, 8, 9])
def test_bits_at_the_bound(agree: Callable[..., Tensor], exponent: int) -> None:
    channels = 2 ** (31 - 15 - exponent)
    x = torch.full((2, channels), -(2**15), dtype=torch.int16)
    x[1, ::2] = 2**15 - 1
    shift = torch.full((channels,), exponent, dtype=torch.int8)
    gain = torch.full((channels,), 2**31 - 1, dtype=torch.int32)
    agree("layer_norm", x, shift, gain, torch.zeros_like(gain))


def test_a_constant_row_gives_the_bias(agree: Callable[..., Tensor], values: Any) -> None:
    bias = torch.arange(-30, 30, dtype=torch.int32)
    x = torch.tensor([-128, 0, 127], dtype=torch.int8)[:, None].expand(3, 60)
    gain = values(0).between(-(2**31), 2**31 - 1, 60)
    got = agree("layer_norm", x, torch.full((60,), 3, dtype=torch.int8), gain, bias)
    assert torch.equal(got, bias.to(torch.int8).expand(3, 60))


def test_close_to_the_float_norm(values: Any) -> None:
    make = values(3)
    x = make.codes("random", 50, 192)
    shift = make.between(0, 5, 192, dtype=torch.int8)
    gain = torch.full((192,), round(2**12 / 0.03), dtype=torch.int32)
    got = ops.layer_norm(x, shift, gain, torch.zeros_like(gain)).double() * 0.03
    v = x.double() * 2.0 ** shift.double()
    expected = torch.nn.functional.layer_norm(v, (192,), eps=0)
    seen = expected.abs() < 3.7
    assert (got - expected)[seen].abs().max() < 0.015 + 2**-11


def test_many_rows(agree: Callable[..., Tensor], values: Any, threads: int) -> None:
    make = values(threads)
    operands = (make.between(0, 5, 96, dtype=torch.int8), make.between(-(2**20), 2**20, 96))
    x = make.codes("random", 4, 100, 96)
    agree("layer_norm", x, *operands, make.between(-9, 9, 96))
    empty = ops.layer_norm(x[:0], *operands, make.between(-9, 9, 96))
    assert empty.shape == (0, 100, 96)
