"""Gradients of norms of rows against float64: every way that a row is held, and unusual values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from qbench_norms_cuda.row_backward import RowGradients, row_backward
from qbench_suite import SM_80, SM_90, Architecture, DeviceError, emulating, ulp_errors

CPU = torch.device("cpu")
FLOAT, HALF, BFLOAT = torch.float32, torch.float16, torch.bfloat16
#: Largest error in ulps of the output, at the larger of its size and the rms.
MOST_ULPS = {FLOAT: 16.0, HALF: 0.51, BFLOAT: 0.51}
ALL = ("dx", "dweight", "dbias")


def drawn(*shape: int, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed + shape[-1]))
    return values.to(device, dtype)


def saved(x: Tensor, statistic: str, eps: float) -> tuple[Tensor | None, Tensor]:
    """Offset and rstd as a forward saves them, from float64."""
    x = x.double().flatten(0, -2)
    if statistic == "l2":
        return None, x.norm(dim=-1).reciprocal().float()
    mean = x.mean(-1) if statistic == "layer" else torch.zeros_like(x[:, 0])
    rstd = ((x - mean[:, None]).square().mean(-1) + eps).rsqrt().float()
    return (mean - x[:, 0]).float() if statistic == "layer" else None, rstd


def exact(
    dy: Tensor, x: Tensor, statistic: str, eps: float, inputs: dict[str, Any]
) -> dict[str, Tensor]:
    """Gradients in float64, by autograd."""
    leaves = {"dx": x.double().requires_grad_()}
    centred = leaves["dx"]
    if statistic == "layer":
        centred = centred - centred.mean(-1, keepdim=True)
    mean = centred.square().sum(-1, keepdim=True) / (1 if statistic == "l2" else x.shape[-1])
    y = centred / (mean + eps).sqrt()
    if (scale := inputs.get("scale")) is not None:
        leaves["dscale"] = scale.double().requires_grad_()
        leaves["dshift"] = torch.zeros_like(leaves["dscale"], requires_grad=True)
        y = y * (1 + leaves["dscale"]) + leaves["dshift"]
    else:
        if (weight := inputs.get("weight")) is not None:
            leaves["dweight"] = weight.double().requires_grad_()
            factor = leaves["dweight"] + inputs.get("weight_offset", 0.0)
            y = y * (factor[:, None] if statistic == "l2" else factor)
        leaves["dbias"] = torch.zeros_like(y[(0,) * (y.dim() - 1)], requires_grad=True)
        y = y + leaves["dbias"]
    through = (y * dy.double()).sum()
    if (dtotal := inputs.get("dtotal")) is not None:
        through = through + (leaves["dx"] * dtotal.double()).sum()
    gradients = torch.autograd.grad(through, list(leaves.values()))
    return dict(zip(leaves, gradients, strict=True))


def check(
    dy: Tensor, x: Tensor, statistic: str, needs: tuple[str, ...], eps: float = 1e-5, **inputs: Any
) -> RowGradients:
    """The gradients asked for are there, right, and of the right shape; the others are not."""
    offset, rstd = saved(x, statistic, eps)
    made = row_backward(dy, x, statistic, offset, rstd, needs=needs, **inputs)
    expected = exact(dy, x, statistic, 0.0 if statistic == "l2" else eps, inputs)
    for name, gradient in vars(made).items():
        assert (gradient is not None) == (name in needs), name
        if gradient is not None:
            assert gradient.is_contiguous()
            errors = ulp_errors(gradient, expected[name].view(gradient.shape))
            assert errors.max_ulp <= MOST_ULPS[gradient.dtype], (name, tuple(x.shape), errors)
            assert not errors.nonfinite, (name, tuple(x.shape))
    return made


#: Lanes of a warp that share rows, a warp, blocks that are full, half full, moved in pieces; two vectors,
#: three of a thread.
SHAPES = (
    (9, 7),
    (70, 32),
    (41, 128),
    (9, 768),
    (5, 1000),
    (7, 1001),
    (19, 4096),
    (3, 5120),
    (5, 12288),
)


@pytest.mark.parametrize(
    ("statistic", "dtype"), [("layer", FLOAT), ("layer", BFLOAT), ("rms", HALF)], ids=str
)
def test_rows_of_any_length(device: torch.device, statistic: str, dtype: torch.dtype) -> None:
    for rows, columns in SHAPES:
        dy, x = (drawn(rows, columns, dtype=dtype, device=device, seed=k) for k in range(2))
        weight = drawn(columns, dtype=dtype, device=device)
        needs = ALL if statistic == "layer" else ALL[:2]
        check(dy, x, statistic, needs, weight=weight)


@pytest.mark.parametrize("architecture", [SM_80, SM_90], ids=str)
@pytest.mark.parametrize(("statistic", "dtype"), [("layer", BFLOAT), ("rms", FLOAT)], ids=str)
def test_rows_longer_than_a_block(
    architecture: Architecture, statistic: str, dtype: torch.dtype
) -> None:
    # Clusters of 2 and 8 on sm_90, tiles of several launches beyond, and everywhere on sm_80.
    with emulating(architecture):
        for rows, columns in ((3, 16_400), (2, 65_536), (3, 70_008)):
            dy, x = (drawn(rows, columns, dtype=dtype, device=CPU, seed=k) for k in range(2))
            check(dy, x, statistic, ALL[:2], weight=drawn(columns, dtype=dtype, device=CPU))


def test_one_column(device: torch.device) -> None:
    # The normalized value is 0, and so is every gradient but that of the bias.
    dy, x = (drawn(5, 1, dtype=FLOAT, device=device, seed=k) for k in range(2))
    made = check(dy, x, "layer", ALL, weight=torch.ones(1, device=device))
    assert made.dx is not None
    assert not made.dx.any()


@pytest.mark.parametrize(
    ("of_rows", "of_weight"), [(HALF, FLOAT), (BFLOAT, FLOAT), (FLOAT, BFLOAT)], ids=str
)
def test_weight_of_another_dtype(
    device: torch.device, of_rows: torch.dtype, of_weight: torch.dtype
) -> None:
    for columns in (768, 1001):
        dy, x = (drawn(9, columns, dtype=of_rows, device=device, seed=k) for k in range(2))
        weight = drawn(columns, dtype=of_weight, device=device)
        made = check(dy, x, "layer", ALL, weight=weight, weight_offset=1.0)
        assert made.dweight is not None
        assert made.dweight.dtype == of_weight


def test_only_what_is_asked_for(device: torch.device) -> None:
    dy, x = (drawn(9, 768, dtype=FLOAT, device=device, seed=k) for k in range(2))
    weight = drawn(768, dtype=FLOAT, device=device)
    for needs in (("dx",), ("dweight",), ("dbias",), ("dweight", "dbias")):
        check(dy, x, "layer", needs, weight=weight)
    check(dy, x, "layer", ("dx", "dbias"))
    check(dy, x, "rms", ("dx",))


def test_gradient_of_the_residual_sum_is_added(device: torch.device) -> None:
    for dtype, columns in ((FLOAT, 768), (BFLOAT, 4096)):
        dy, x, dtotal = (drawn(5, columns, dtype=dtype, device=device, seed=k) for k in range(3))
        weight = drawn(columns, dtype=dtype, device=device)
        check(dy, x, "rms", ALL[:2], weight=weight, dtotal=dtotal)


@pytest.mark.parametrize("dtype", [FLOAT, BFLOAT], ids=str)
def test_weight_norm(device: torch.device, dtype: torch.dtype) -> None:
    for rows, columns in ((37, 40), (5, 1000), (3, 20_000), (2, 140_000)):
        dy, v = (drawn(rows, columns, dtype=dtype, device=device, seed=k) for k in range(2))
        made = check(dy, v, "l2", ALL[:2], weight=drawn(rows, dtype=dtype, device=device))
        assert made.dweight is not None
        assert made.dweight.shape == (rows,)


@pytest.mark.parametrize("per_token", [False, True], ids=["batch", "token"])
@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=str)
def test_scale_of_a_condition(device: torch.device, dtype: torch.dtype, per_token: bool) -> None:
    for batches, tokens, columns in ((2, 9, 40), (3, 1, 48), (3, 70, 256), (1, 5, 1152)):
        shape = (batches, tokens, columns)
        dy, x = (drawn(*shape, dtype=dtype, device=device, seed=k) for k in range(2))
        condition = drawn(
            batches, tokens if per_token else 1, 3 * columns, dtype=dtype, device=device
        )
        scale = condition.chunk(3, -1)[1]
        made = check(dy, x, "layer", ("dx", "dscale", "dshift"), scale=scale)
        assert made.dscale is not None
        assert made.dscale.shape == scale.shape


def test_a_scale_whose_batches_are_apart(device: torch.device) -> None:
    # Tokens of a batch are evenly spaced, batches are not: no single stride walks all rows.
    dy, x = (drawn(2, 9, 40, dtype=FLOAT, device=device, seed=k) for k in range(2))
    scale = drawn(2, 11, 40, dtype=FLOAT, device=device)[:, 1:10]
    check(dy, x, "layer", ("dx", "dscale", "dshift"), scale=scale)


def test_constant_rows_and_rows_of_zeros(device: torch.device) -> None:
    dy, x = (drawn(9, 768, dtype=FLOAT, device=device, seed=k) for k in range(2))
    x[1], x[3] = 0.0, 1e4
    check(dy, x, "layer", ALL, weight=drawn(768, dtype=FLOAT, device=device))


def test_huge_constant_rows_do_not_fill_a_block(device: torch.device) -> None:
    # What a thread has beyond its row is 0, infinitely many deviations from the mean.
    for columns in (7, 1000):
        dy, x = drawn(2, columns, dtype=FLOAT, device=device), torch.full((2, columns), 1e37)
        check(dy, x.to(device), "layer", ("dx",))


@pytest.mark.parametrize("size", [1e30, 1e-12])
def test_huge_and_tiny_rows(device: torch.device, size: float) -> None:
    dy, x = (drawn(9, 768, dtype=FLOAT, device=device, seed=k) for k in range(2))
    for statistic in ("layer", "rms"):
        check(dy, x * size, statistic, ("dx",), eps=0.0)
    check(dy, x * size, "l2", ("dx", "dweight"), weight=drawn(9, dtype=FLOAT, device=device))


def test_rows_far_from_zero_keep_their_digits(device: torch.device) -> None:
    dy, x = (drawn(9, 768, dtype=FLOAT, device=device, seed=k) for k in range(2))
    x[:, 0] += 5  # the first element, from which offsets are counted, need not be near the mean
    weight = drawn(768, dtype=FLOAT, device=device)
    check(dy, x + 1e6, "layer", ALL, weight=weight)
    leaf = (x + 1e6).requires_grad_()
    torch.nn.functional.layer_norm(leaf, (768,), weight).backward(dy)
    assert leaf.grad is not None
    theirs = ulp_errors(leaf.grad, exact(dy, x + 1e6, "layer", 1e-5, {"weight": weight})["dx"])
    assert theirs.max_ulp > 10 * MOST_ULPS[FLOAT]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["x", "dy"])
def test_a_row_that_is_not_finite_spoils_its_own_gradient(
    device: torch.device, bad: float, where: str
) -> None:
    dy, x = (drawn(9, 768, dtype=FLOAT, device=device, seed=k) for k in range(2))
    weight = drawn(768, dtype=FLOAT, device=device)
    offset, rstd = saved(x, "layer", 1e-5)
    good = row_backward(dy, x, "layer", offset, rstd, weight=weight, needs=ALL).dx
    (x if where == "x" else dy)[4, 100] = bad
    offset, rstd = saved(x, "layer", 1e-5)
    made = row_backward(dy, x, "layer", offset, rstd, weight=weight, needs=ALL)
    assert good is not None
    assert made.dx is not None
    assert made.dweight is not None
    assert not made.dx[4].isfinite().any()
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    assert torch.equal(made.dx[others], good[others])
    columns = slice(None) if where == "x" else slice(100, 101)
    assert not made.dweight[columns].isfinite().any()


@pytest.mark.parametrize("statistic", ["layer", "rms"])
def test_sums_over_many_rows(device: torch.device, statistic: str) -> None:
    for dtype in (FLOAT, BFLOAT):
        dy, x = (drawn(4096, 128, dtype=dtype, device=device, seed=k) for k in range(2))
        weight = drawn(128, dtype=dtype, device=device)
        check(dy, x + 0.5, statistic, ALL, weight=weight)


@pytest.mark.parametrize("shape", [(0, 8), (2, 0, 8)], ids=str)
def test_without_rows_sums_are_zero(device: torch.device, shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, device=device)
    rstd = torch.empty(0, device=device)
    made = row_backward(x, x, "rms", None, rstd, weight=torch.ones(8, device=device), needs=ALL)
    assert made.dx is not None
    assert made.dweight is not None
    assert made.dbias is not None
    assert made.dx.shape == shape
    assert made.dweight.tolist() == made.dbias.tolist() == [0.0] * 8


def test_outside_of_an_emulator_a_cpu_is_no_device() -> None:
    x = torch.ones(2, 8)
    with pytest.raises(DeviceError, match="emulating"):
        row_backward(x, x, "rms", None, torch.ones(2))
