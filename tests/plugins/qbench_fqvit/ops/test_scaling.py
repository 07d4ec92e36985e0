"""Requantization, look-up and residual, and what begins with a product: equal to the oracle."""

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
quick = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 2**30)
sizes = st.integers(1, 150)
kinds = st.sampled_from(KINDS)
#: Shifts above 32 take another way than the others.
shifts = st.sampled_from([(33, 62), (1, 62), (1, 32)])


@quick
@given(seeds, st.integers(1, 9), sizes, shifts, st.integers(-(2**31), 2**31 - 1), st.booleans())
def test_requantize(
    agree: Callable[..., Tensor], values: Any, seed: int, rows: int, channels: int,
    span: tuple[int, int], zero_point: int, near: bool,
) -> None:  # fmt: skip
    make = values(seed)
    acc = make.between(-(2**31), 2**31 - 1, rows, channels)
    factors = make.factors(channels, low=span[0], high=span[1])
    zero_point = zero_point % 256 - 128 if near else zero_point
    agree("requantize", acc, *factors, zero_point)
    lookup = make.codes("random", 256)
    agree("requantize_lookup", acc, *factors, zero_point, lookup)


@pytest.mark.parametrize("shift", range(1, 63))
def test_no_factor_overflows(agree: Callable[..., Tensor], shift: int) -> None:
    edges = torch.tensor([-(2**31), -(2**31) + 1, -1, 0, 1, 2**31 - 1], dtype=torch.int32)
    acc, multiplier = torch.meshgrid(edges, edges, indexing="ij")
    for column in range(len(edges)):
        by = multiplier[:, column].contiguous()
        shifts = torch.full((len(edges),), shift, dtype=torch.int8)
        agree("requantize", acc, by, shifts, 0)
        wide = torch.full_like(acc, -(2**15)).short()
        for bits in (8, 16):
            agree("residual", wide, acc, by, by, shifts, bits)


def test_halves_round_up(agree: Callable[..., Tensor]) -> None:
    acc = torch.tensor([[-3, -2, -1, 0, 1, 2, 3]], dtype=torch.int32)
    one = torch.full((7,), 2**30, dtype=torch.int32)
    got = agree("requantize", acc, one, torch.full((7,), 31, dtype=torch.int8), 0)
    assert got.tolist() == [[-1, -1, 0, 0, 1, 1, 2]]


@quick
@given(seeds, st.integers(1, 5), sizes, shifts, st.sampled_from([torch.int8, torch.int16]), kinds)
def test_residual(
    agree: Callable[..., Tensor], values: Any, seed: int, rows: int, channels: int,
    span: tuple[int, int], dtype: torch.dtype, kind: str,
) -> None:  # fmt: skip
    make = values(seed)
    x = make.codes(kind, rows, channels, dtype=dtype)
    acc = make.between(-(2**31), 2**31 - 1, rows, channels)
    by_x, _ = make.factors(channels)
    by_acc, shift = make.factors(channels, low=span[0], high=span[1])
    for bits in (8, 16):
        agree("residual", x, acc, by_x, by_acc, shift, bits)


@quick
@given(
    seeds,
    st.integers(1, 20),
    st.integers(1, 150),
    st.integers(1, 140),
    kinds,
    kinds,
    st.sampled_from([torch.int8, torch.uint8]),
)
def test_products(
    agree: Callable[..., Tensor], values: Any, seed: int, rows: int, inputs: int, outputs: int,
    kind: str, weight_kind: str, dtype: torch.dtype,
) -> None:  # fmt: skip
    make = values(seed)
    x = make.codes(kind, rows, inputs, dtype=dtype)
    weight = make.codes(weight_kind, outputs, inputs)
    bias = make.between(-(2**20), 2**20, outputs)
    agree("gemm", x, weight, None)
    acc = agree("gemm", x, weight, bias)
    # Factors that leave something to see of sums of any size.
    multiplier, shift = make.factors(outputs, low=36, high=48)
    lookup = make.codes("random", 256)
    for each in (None, lookup):
        agree("linear_requantize", x, weight, bias, multiplier, shift, 5, each)
    agree("linear_requantize", x, weight, None, multiplier, shift - 10, -3, None)
    for bits, stream_type in ((8, torch.int8), (16, torch.int16), (8, torch.int16)):
        stream = make.codes("random", rows, outputs, dtype=stream_type)
        operands = (make.factors(outputs)[0], multiplier, shift)
        fused = agree("linear_residual", x, weight, bias, stream, *operands, bits)
        assert torch.equal(fused, ops.residual(stream, acc, *operands, bits))


@pytest.mark.parametrize("inputs", [1, 2, 3, 5, 63, 65, 1000, 1001, 4304])
@pytest.mark.parametrize("kind", ["lowest", "highest"])
def test_products_of_extremes(
    agree: Callable[..., Tensor], values: Any, inputs: int, kind: str
) -> None:
    make = values(0)
    weight = make.codes("lowest", 3, inputs)
    for dtype in (torch.int8, torch.uint8):
        agree("gemm", make.codes(kind, 2, inputs, dtype=dtype), weight, None)


def test_the_longest_sum_is_exact(values: Any) -> None:
    x = torch.full((1, 65_536), 255, dtype=torch.uint8)
    weight = torch.full((1, 65_536), -128, dtype=torch.int8)
    assert ops.gemm(x, weight).item() == -255 * 128 * 65_536


def test_products_do_not_depend_on_the_number_of_threads(
    agree: Callable[..., Tensor], values: Any, threads: int
) -> None:
    make = values(threads)
    x, weight = make.codes("random", 2, 197, 192), make.codes("random", 200, 192)
    factors = make.factors(200)
    agree("gemm", x, weight, None)
    agree("linear_requantize", x, weight, None, *factors, 0, make.codes("random", 256))
    acc = ops.gemm(x, weight)
    agree("requantize", acc, *factors, 1)
    agree("residual", acc.to(torch.int8), acc, factors[0], *factors, 8)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (2, 0, 4)])
def test_empty_tensors(agree: Callable[..., Tensor], values: Any, shape: tuple[int, ...]) -> None:
    make = values(0)
    x, channels = make.codes("random", *shape), shape[-1]
    agree("gemm", x, make.codes("random", 4, channels), None)
    factors = make.factors(channels)
    agree("requantize", x.int(), *factors, 0)
    agree("residual", x, x.int(), factors[0], *factors, 8)
    assert ops.gemm(x, x.new_zeros(0, channels)).shape == (*shape[:-1], 0)


def test_operands_of_any_layout(values: Any) -> None:
    make = values(1)
    x, weight = make.codes("random", 70, 9).t(), make.codes("random", 70, 12)[:, ::4].t()
    weight = weight.repeat(5, 1)[:, :70]
    acc = ops.gemm(x, weight)
    assert torch.equal(acc, ops.gemm(x.contiguous(), weight.contiguous()))
    multiplier, shift = (part[::2] for part in make.factors(30))
    assert torch.equal(
        ops.requantize(acc, multiplier, shift),
        ops.requantize(acc.clone(), multiplier.clone(), shift.clone()),
    )
