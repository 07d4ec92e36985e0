"""RMSNorm of queries and keys: exact to rounding, on views, and attention as of the unfused chain."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qbench_norms_cuda import ops
from qbench_norms_cuda.attention import SOURCE, normalize_heads
from qbench_suite import (
    SM_80,
    SM_90,
    SM_100,
    Architecture,
    emulating,
    guarded,
    inspect_function,
    ulp_errors,
)

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
TOLERANCE = {torch.float32: 4.0, torch.float16: 1.0, torch.bfloat16: 1.0}


def drawn(*shape: int, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device, dtype)


def packed(width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Views (B, H, T, D) of one projection: nothing contiguous but a head."""
    q, k, v = drawn(2, 5, 3, 3, width, dtype=dtype, device=device).permute(2, 0, 3, 1, 4)
    return q, k, v


def exact(x: Tensor, weight: Tensor | None, eps: float, offset: float = 0.0) -> Tensor:
    x = x.double()
    y = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return y if weight is None else y * (weight.double() + offset)


@pytest.mark.parametrize("width", [1, 7, 64, 72, 128, 512])
@DTYPES
def test_heads_of_a_packed_projection(width: int, dtype: torch.dtype, device: torch.device) -> None:
    q, k, _ = packed(width, dtype, device)
    k = k[:, :2]  # fewer heads of keys
    weight = drawn(width, dtype=dtype, device=device, seed=1)
    q_y, k_y, q_rstd, k_rstd = normalize_heads(q, k, weight, None, 1e-6, 1.0, save=True)
    for x, y, rstd, w in ((q, q_y, q_rstd, weight), (k, k_y, k_rstd, None)):
        assert rstd is not None
        assert y.shape == x.shape
        assert y.transpose(1, 2).is_contiguous()
        assert ulp_errors(y, exact(x, w, 1e-6, 1.0)).max_ulp <= TOLERANCE[dtype]
        expected = (x.double().square().mean(-1) + 1e-6).rsqrt()
        assert rstd.shape == x.shape[:-1]
        assert ulp_errors(rstd, expected).max_ulp <= 4


def test_heads_next_to_each_other_and_tokens_of_one(device: torch.device) -> None:
    q = drawn(2, 3, 40, 64, dtype=torch.float16, device=device)
    k = drawn(2, 3, 1, 64, dtype=torch.float16, device=device, seed=1)
    q_y, k_y, *_ = normalize_heads(q, k, None, None, 1e-6)
    assert q_y.is_contiguous()
    assert ulp_errors(q_y, exact(q, None, 1e-6)).max_ulp <= 1
    assert ulp_errors(k_y, exact(k, None, 1e-6)).max_ulp <= 1
    again = ops.qk_norm(k, q)
    assert torch.equal(again[0], k_y)
    assert torch.equal(again[1], q_y)


@DTYPES
def test_heads_out_of_line_have_the_same_bits(dtype: torch.dtype, device: torch.device) -> None:
    x = drawn(1, 2, 3, 64, dtype=dtype, device=device)
    expected = normalize_heads(x, x, None, None, 1e-6)[0]
    for first in (1, 2, 4):
        room = torch.full((x.numel() + 16,), torch.nan, dtype=dtype, device=device)
        moved = room[first : first + x.numel()].view(x.shape).copy_(x)
        assert torch.equal(normalize_heads(moved, x, None, None, 1e-6)[0], expected)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("width", [7, 33, 100])
@DTYPES
def test_nothing_outside_of_tensors_is_read(dtype: torch.dtype, width: int, before: bool) -> None:
    q = drawn(1, 2, 5, width, dtype=dtype, device=torch.device("cpu"))
    weight = drawn(width, dtype=dtype, device=q.device, seed=1)
    fenced = [guarded(tensor, before=before) for tensor in (q, q, weight, weight)]
    with emulating(SM_90):
        for y in ops.qk_norm(*fenced):
            assert torch.equal(y, ops.qk_norm(q, q, weight)[0])


def test_heads_beyond_two_to_the_31(device: torch.device) -> None:
    """Memory that is not touched takes no room on the CPU; a GPU has it."""
    q = drawn(2, 1, 3, 64, dtype=torch.float16, device=device)
    room = torch.empty(2**31 + 256, dtype=torch.float16, device=device)
    far = room.as_strided(q.shape, (2**31 + 8, 64, 64, 1)).copy_(q)
    for y in ops.qk_norm(far, q):
        assert torch.equal(y, ops.qk_norm(q, q)[0])


def test_rows_of_extreme_values_and_of_none(device: torch.device) -> None:
    x = drawn(1, 1, 8, 64, dtype=torch.float32, device=device)
    x[0, 0, 1] *= 1e30
    x[0, 0, 2] *= 1e-30
    x[0, 0, 3] = 3e38
    x[0, 0, 4] = 0
    x[0, 0, 5, 3] = torch.nan
    x[0, 0, 6, 3] = torch.inf
    for eps in (1e-6, 0.0):
        y = normalize_heads(x, x, None, None, eps)[0]
        errors = ulp_errors(y, exact(x, None, eps))
        assert errors.nonfinite == 0
        assert errors.max_ulp <= 4
    assert not y[0, 0, [0, 1, 2, 3, 7]].isnan().any()


def test_no_tokens(device: torch.device) -> None:
    q = drawn(2, 3, 0, 64, dtype=torch.float32, device=device)
    k = drawn(2, 3, 4, 64, dtype=torch.float32, device=device)
    q_y, k_y = ops.qk_norm(q, k)
    assert q_y.shape == q.shape
    assert ulp_errors(k_y, exact(k, None, 1e-6)).max_ulp <= 4
    assert [y.shape for y in ops.qk_norm(q, q)] == [q.shape, q.shape]


def test_a_head_has_the_same_bits_in_any_batch(device: torch.device) -> None:
    q, k, _ = packed(128, torch.bfloat16, device)
    whole = normalize_heads(q, k, None, None, 1e-6)[0]
    one = normalize_heads(q[1:, 2:, 3:4], k[:1], None, None, 1e-6)[0]
    assert torch.equal(one, whole[1:, 2:, 3:4])


@DTYPES
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_that_of_the_unfused_chain(
    causal: bool, dtype: torch.dtype, device: torch.device
) -> None:
    q, k, v = packed(64, dtype, device)
    weight = drawn(64, dtype=dtype, device=device, seed=2)
    y = ops.qk_norm_attention(q, k, v, weight, weight, is_causal=causal)
    normed = (exact(x, weight, 1e-6) for x in (q, k))
    reference = F.scaled_dot_product_attention(*normed, v.double(), is_causal=causal)
    chain = F.scaled_dot_product_attention(
        *(F.rms_norm(x, [64], weight, 1e-6) for x in (q, k)), v, is_causal=causal
    )
    own = ulp_errors(chain, reference).max_ulp
    assert ulp_errors(y, reference).max_ulp <= max(2 * own, 1.0)


@pytest.mark.parametrize("architecture", [SM_80, SM_90, SM_100], ids=str)
@pytest.mark.parametrize(
    "types", ["float, float, 4, 32, 4", "__half, __half, 8, 8, 1", "__nv_bfloat16, float, 8, 32, 2"]
)
def test_what_is_compiled(types: str, architecture: Architecture) -> None:
    resources = inspect_function(SOURCE.function(f"qk_norm<{types}>"), architecture)
    assert resources.spill_bytes == resources.stack_bytes == 0
    assert resources.registers <= 64
    assert resources.wide_loads >= 2
    assert resources.wide_stores >= 1
