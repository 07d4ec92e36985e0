"""Forward norms of unusual values: constant, huge, tiny, far from zero, not finite."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from qbench_norms_cuda.row_forward import row_forward
from qbench_suite import NORM_OPERATIONS, SM_90, Architecture, emulating, ulp_errors

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
NORMS = {"layer": "layer_norm", "rms": "rms_norm"}
#: Lengths and architectures: some lanes, a block, shared memory of a cluster, slices.
HELD = {
    "lanes": (100, SM_90),
    "block": (3000, SM_90),
    "cluster": (40_000, SM_90),
    "slices": (20_001, dataclasses.replace(SM_90, shared_bytes=20_000)),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same values in every run."""
    torch.manual_seed(5)


def exact(x: Tensor, statistic: str, eps: float) -> Tensor:
    inputs = {"x": x, "weight": None, "bias": None, "weight_offset": 0.0, "eps": eps}
    return NORM_OPERATIONS[NORMS[statistic]].exact(inputs)[0]


def check(x: Tensor, statistic: str, eps: float, most_ulps: float) -> Tensor:
    y = row_forward(x, statistic, eps).y
    assert y is not None
    errors = ulp_errors(y, exact(x, statistic, eps))
    assert errors.nonfinite == 0
    assert errors.max_ulp <= most_ulps
    return y


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [0.0, 3.0, -1e4])
def test_constant_rows_have_no_deviation(
    value: float, dtype: torch.dtype, device: torch.device
) -> None:
    for n in (1, 7, 1000):
        x = torch.full((2, n), value, dtype=dtype, device=device)
        made = row_forward(x, "layer", 1e-5, save=True)
        assert made.y is not None
        assert made.rstd is not None
        assert not made.y.any()
        assert torch.equal(made.rstd, torch.full_like(made.rstd, 1e-5).rsqrt())


@pytest.mark.parametrize("statistic", NORMS)
@pytest.mark.parametrize(("n", "architecture"), HELD.values(), ids=HELD)
@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_squares_neither_overflow_nor_vanish(
    size: float, n: int, architecture: Architecture, statistic: str
) -> None:
    # The row of ordinary size beside them is not touched by it: same bits as alone.
    x = torch.randn(3, n)
    x[1] *= size
    with emulating(architecture):
        check(x, statistic, 0.0, 6)
        y = row_forward(x, statistic, 0.0).y
        alone = row_forward(x[2:], statistic, 0.0).y
    assert y is not None
    assert alone is not None
    assert torch.equal(y[2:], alone)


def test_a_weight_of_tiny_rows(device: torch.device) -> None:
    v = torch.randn(3, 64, device=device)
    v[0] *= 1e-25
    v[1] *= 1e25
    w = row_forward(v, "l2", weight=torch.ones(3, device=device)).y
    assert w is not None
    assert ulp_errors(w, v.double() / v.double().norm(dim=1, keepdim=True)).max_ulp <= 4


def test_a_weight_of_zeros_has_no_direction(device: torch.device) -> None:
    w = row_forward(torch.zeros(2, 8, device=device), "l2", weight=torch.ones(2, device=device)).y
    assert w is not None
    assert w.isnan().all()


@pytest.mark.parametrize("mean", [1e3, 1e6, -1e6])
@pytest.mark.parametrize(("n", "architecture"), HELD.values(), ids=HELD)
def test_a_mean_far_from_zero_costs_no_accuracy(
    mean: float, n: int, architecture: Architecture
) -> None:
    x = torch.randn(2, n) + mean
    with emulating(architecture):
        check(x, "layer", 1e-5, 4)
    # Torch loses most digits there: the test is one that a sum of squares would not pass.
    own = ulp_errors(torch.layer_norm(x, (n,)), exact(x, "layer", 1e-5)).max_ulp
    assert own > 4 or abs(mean) < 1e6


def test_a_first_element_far_from_the_others(device: torch.device) -> None:
    x = torch.randn(2, 1000, device=device)
    x[:, 0] = 1e4
    check(x, "layer", 1e-5, 4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("statistic", NORMS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_in_its_row(
    value: float, statistic: str, dtype: torch.dtype, device: torch.device
) -> None:
    # 64 elements: several rows of a warp; 3000: a block a row.
    for n in (64, 3000):
        clean = torch.randn(5, n, device=device).to(dtype)
        for column in (0, n // 2):
            x = clean.clone()
            x[2, column] = value
            y = check(x, statistic, 1e-5, 4 if dtype == torch.float32 else 1)
            others = row_forward(clean, statistic, 1e-5).y
            assert others is not None
            assert torch.equal(y[[0, 1, 3, 4]], others[[0, 1, 3, 4]])


def test_values_beyond_float16_become_infinite(device: torch.device) -> None:
    x = torch.tensor([[1.0, -1.0, 0.0, 0.0]], device=device).half()
    y = row_forward(x, "rms", 0.0, weight=torch.full((4,), 6e4, device=device).half()).y
    assert y is not None
    assert y.tolist() == [[float("inf"), float("-inf"), 0.0, 0.0]]
