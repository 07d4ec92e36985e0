"""Scores, codes of weights, context and the fused attention: equal to the oracle."""

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
MASKED = -(2**31)
#: Codes of weights, and the byte of a weight of zero.
ZEROS = {"uniform8": 0, "lis4": 16, "log8": 255}
codings = pytest.mark.parametrize("code", ZEROS)
quick = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 2**30)
kinds = st.sampled_from(KINDS)
tokens = st.one_of(st.integers(1, 20), st.sampled_from([49, 63, 64, 65, 130]))
widths = st.one_of(st.integers(1, 24), st.sampled_from([32, 63, 64, 72, 80, 88]))


def masks(make: Any, windows: int, heads: int, rows: int, columns: int) -> Tensor:
    """A bias that masks a third of the entries, and one row as a whole."""
    bias = make.between(-3000, 3000, windows, heads, rows, columns)
    bias[make.between(0, 2, windows, heads, rows, columns).eq(0)] = MASKED
    bias[0, 0, 0] = MASKED
    return bias


@quick
@given(seeds, tokens, tokens, widths, kinds, kinds)
def test_scores_and_context(
    agree: Callable[..., Tensor], values: Any, seed: int, queries: int, keys: int, width: int,
    kind: str, other: str,
) -> None:  # fmt: skip
    make = values(seed)
    q, k = make.codes(kind, 2, 3, queries, width), make.codes(other, 2, 3, keys, width)
    agree("scores", q, k)
    codes = make.between(0, 255, 2, 3, queries, keys, dtype=torch.uint8)
    agree("context", codes, k, "log8")
    agree("context", codes, k, "uniform8")
    agree("context", codes % 17, k, "lis4")


@quick
@given(
    seeds,
    st.integers(1, 5),
    tokens,
    st.sampled_from([(33, 50), (1, 32), (33, 62)]),
    st.booleans(),
    st.floats(0.005, 2),
    st.sampled_from([20, 22, 24, 30]),
)
def test_softmax_codes(
    agree: Callable[..., Tensor], values: Any, table: Callable[..., Tensor], seed: int, queries: int,
    keys: int, span: tuple[int, int], masked: bool, scale: float, bits: int,
) -> None:  # fmt: skip
    make = values(seed)
    scores = make.between(-(2**17), 2**17, 4, 2, queries, keys)
    multiplier = make.between(2**30, 2**31 - 1, 2)
    shift = int(make.between(*span, 1))
    bias = masks(make, 2, 2, queries, keys) if masked else None
    for code in ZEROS:
        operands = (multiplier, shift, table(scale, bits), bias, code)
        agree("softmax_codes", scores, *operands)


@codings
def test_every_distance_and_many_sums(
    agree: Callable[..., Tensor], table: Callable[..., Tensor], code: str
) -> None:
    # Row r holds logits 127 down to -128 and then r times the highest once more.
    scores = torch.full((1, 1, 200, 456), 127, dtype=torch.int32)
    scores[..., :256] = torch.arange(127, -129, -1)
    beyond = torch.arange(456) >= 256 + torch.arange(200)[:, None]
    scores[0, 0][beyond] = -128
    one = torch.tensor([2**30], dtype=torch.int32)
    for scale in (0.02, 0.06, 0.125):
        agree("softmax_codes", scores, one, 30, table(scale, 22), None, code)


@pytest.mark.parametrize("keys", [511, 512, 2047, 2100])
@codings
def test_long_rows_of_equal_logits(
    agree: Callable[..., Tensor], table: Callable[..., Tensor], keys: int, code: str
) -> None:
    scores = torch.zeros(1, 1, 2, keys, dtype=torch.int32)
    scores[0, 0, 1, 0] = 2**20
    one = torch.tensor([2**30], dtype=torch.int32)
    for scale_bits in (20, 22, 30):
        agree("softmax_codes", scores, one, 33, table(0.1, scale_bits), None, code)


@codings
def test_a_masked_row_has_weights_of_zero_alone(
    agree: Callable[..., Tensor], values: Any, table: Callable[..., Tensor], code: str
) -> None:
    make = values(0)
    bias = torch.full((1, 1, 1, 70), MASKED, dtype=torch.int32)
    scores = make.between(-(2**31), 2**31 - 1, 2, 1, 1, 70)
    one = torch.tensor([2**30], dtype=torch.int32)
    codes = agree("softmax_codes", scores, one, 34, table(), bias, code)
    assert codes.unique().tolist() == [ZEROS[code]]
    context = agree("context", codes, make.codes("lowest", 2, 1, 70, 5), code)
    assert not context.any()


@quick
@given(
    seeds,
    st.integers(1, 4),
    tokens,
    st.integers(1, 3),
    widths,
    kinds,
    st.sampled_from([0, 1, 2]),
)
def test_attention(
    agree: Callable[..., Tensor], values: Any, table: Callable[..., Tensor], seed: int, half: int,
    count: int, heads: int, width: int, kind: str, windows: int,
) -> None:  # fmt: skip
    make = values(seed)
    batch = 2 * half if windows == 2 else half
    qkv = make.codes(kind, batch, min(count, 70), 3, heads, width)
    count = qkv.shape[1]
    bias = masks(make, windows, heads, count, count) if windows else None
    multiplier = make.between(2**29, 2**30, heads)
    out = make.factors(heads * width, low=38, high=46)
    for code in ZEROS:
        fused = agree("attention", qkv, multiplier, 38, table(), bias, *out, code)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        codes = ops.softmax_codes(ops.scores(q, k), multiplier, 38, table(), bias, code)
        acc = ops.context(codes, v, code).transpose(1, 2).flatten(2)
        assert torch.equal(fused, ops.requantize(acc, *out))


@codings
def test_attention_does_not_depend_on_the_number_of_threads(
    agree: Callable[..., Tensor], values: Any, table: Callable[..., Tensor], threads: int, code: str
) -> None:
    make = values(8)
    qkv, out = make.codes("random", 2, 33, 3, 3, 24), make.factors(72)
    agree("attention", qkv, make.between(2**29, 2**30, 3), 38, table(), None, *out, code)


def test_attention_without_elements(values: Any, table: Callable[..., Tensor]) -> None:
    one = torch.tensor([2**30], dtype=torch.int32)
    for shape in ((0, 5), (2, 0)):
        qkv = torch.zeros(*shape, 3, 1, 8, dtype=torch.int8)
        got = ops.attention(qkv, one, 38, table(), None, *values(0).factors(8))
        assert got.shape == (*shape, 8)


def test_heads_are_read_where_they_lie(values: Any) -> None:
    make = values(5)
    q, k, v = make.codes("random", 2, 9, 3, 4, 6).permute(2, 0, 3, 1, 4)
    assert torch.equal(ops.scores(q, k), ops.scores(q.contiguous(), k.contiguous()))
    apart = make.codes("random", 2, 4, 9, 12)[..., ::2]
    assert torch.equal(ops.scores(apart, k), ops.scores(apart.contiguous(), k.contiguous()))
    codes = make.between(0, 255, 2, 4, 9, 9, dtype=torch.uint8)
    assert torch.equal(ops.context(codes.mT, v), ops.context(codes.mT.contiguous(), v.clone()))


#: What makes logits of scores: a factor of one.
ONE = (torch.tensor([2**30], dtype=torch.int32), 30)


@quick
@given(seeds, st.integers(1, 12), st.integers(1, 70))
def test_codes_of_sums_on_a_step(
    agree: Callable[..., Tensor], values: Any, seed: int, largest: int, keys: int
) -> None:
    # Small exponentials make sums that meet the steps of the codes exactly.
    make = values(seed)
    small = make.between(0, largest, 256).sort(descending=True).values
    small[0] = largest
    scores = make.between(-128, 127, 1, 1, 8, keys)
    for code in ZEROS:
        agree("softmax_codes", scores, *ONE, small, None, code)


@pytest.mark.parametrize("j", range(16))
def test_codes_of_sums_next_to_a_step(agree: Callable[..., Tensor], j: int) -> None:
    # 2^30 and what is missing to 2^(30 + (2j + 1) / 32), rounded up and down.
    above = next(n for n in _near(j) if n**32 >= 2 ** (32 * 30 + 2 * j + 1))
    scores = torch.tensor([[[[0, -1]]]], dtype=torch.int32)
    first = []
    for total in (above - 1, above):
        steps = torch.zeros(256, dtype=torch.int32)
        steps[0], steps[1] = 2**30, total - 2**30
        codes = agree("softmax_codes", scores, *ONE, steps, None, "log8")
        first.append(int(codes[..., 0]))
    assert first == [j, j + 1]


def test_uniform_codes_by_hand(agree: Callable[..., Tensor]) -> None:
    # 256 e / sum is 255.5, 254.5, 128, 1.5, 0.5 and just below it; halves go up, and 255 is the most.
    scores = torch.tensor([[[[0, -1]]]], dtype=torch.int32)
    found = []
    for first, second in ((511, 1), (509, 3), (7, 7), (509, 3), (511, 1), (512, 1)):
        steps = torch.zeros(256, dtype=torch.int32)
        steps[0], steps[1] = first, second
        codes = agree("softmax_codes", scores, *ONE, steps, None, "uniform8")
        found.append(codes.flatten().tolist())
    assert found == [[255, 1], [255, 2], [128, 128], [255, 2], [255, 1], [255, 0]]


def _near(j: int) -> range:
    """Some integers around ``2^(30 + (2j + 1) / 32)``."""
    about = round(2 ** (30 + (2 * j + 1) / 32))
    return range(about - 2, about + 3)
