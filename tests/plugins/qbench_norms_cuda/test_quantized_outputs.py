"""Codes and scales of norms, bit for bit those that the suite gives to the same values."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from qbench_formats import FORMATS
from qbench_modes import MODES
from qbench_norms_cuda.row_forward import Quantization, RowOutputs, row_forward
from qbench_suite import SM_80, SM_90, Architecture, Format, Mode, emulating

BY_NAME: dict[str, Format] = {format.name: format for format in FORMATS}
MODE: dict[str, Mode] = {mode.name: mode for mode in MODES}
FORMAT_NAMES = ("fp8_e4m3", "int8")
DYNAMIC = ("token", "chunk128", "mx32")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
#: Lengths of rows that some lanes, a block, a block's shared memory, a cluster and slices hold.
HELD = {
    "lanes": (1000, SM_90),
    "a block": (2050, SM_90),
    "shared memory": (20_000, SM_80),
    "a cluster": (40_000, SM_90),
    "slices": (20_001, dataclasses.replace(SM_90, shared_bytes=20_000)),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same values in every run."""
    torch.manual_seed(5)


def norms(
    x: Tensor, format: str, mode: str, weight: Tensor | None = None
) -> tuple[Tensor, RowOutputs]:
    """RMSNorm of ``x``, in floats and in codes."""
    plain = row_forward(x, "rms", 1e-6, weight=weight)
    assert plain.y is not None
    made = row_forward(x, "rms", 1e-6, weight=weight, quantization=Quantization(format, mode))
    return plain.y, made


def expected(y: Tensor, format: str, mode: str) -> tuple[Tensor, Tensor]:
    """Scales, and quotients rounded to the format, by the suite's own rule and rounding."""
    rule, grid = MODE[mode].rule, BY_NAME[format]
    chunk = {"token": y.shape[-1], "chunk128": 128, "mx32": 32}[mode]
    groups = torch.nn.functional.pad(y.float(), (0, -y.shape[-1] % chunk))
    groups = groups.reshape(*y.shape[:-1], -1, chunk)
    amax = torch.where(groups.isfinite(), groups, 0.0).abs().amax(-1, keepdim=True)
    scale = rule.scale(
        amax, torch.tensor(grid.max, device=y.device), torch.zeros((), device=y.device)
    )
    scale = torch.where(amax > 0, scale, 1.0)
    return scale.squeeze(-1), grid.round(groups / scale).flatten(-2)[..., : y.shape[-1]]


def assert_codes(y: Tensor, made: RowOutputs, format: str, mode: str) -> None:
    """``made`` holds what the suite makes of ``y``."""
    assert made.y is None
    assert made.codes is not None
    assert made.scales is not None
    scale, values = expected(y, format, mode)
    assert torch.equal(made.scales, scale)
    torch.testing.assert_close(made.codes.float(), values, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", DYNAMIC)
@pytest.mark.parametrize("format", FORMAT_NAMES)
def test_codes_are_those_of_the_suite(
    format: str, mode: str, dtype: torch.dtype, device: torch.device
) -> None:
    x = torch.randn(7, 1000, device=device)
    x[1] = 0
    x[2, 128:256] = 0
    x[3] *= 1e-3
    # Scales from one end of the numbers to the other: weights span them.
    power = 4 if dtype == torch.float16 else 30
    weight = 10 ** torch.linspace(-power, power, 1000, device=device)
    for w in (None, weight.to(dtype)):
        y, made = norms(x.to(dtype), format, mode, w)
        assert_codes(y, made, format, mode)


@pytest.mark.parametrize("mode", DYNAMIC)
@pytest.mark.parametrize(("n", "architecture"), HELD.values(), ids=HELD)
def test_rows_are_quantized_however_they_are_held(
    n: int, architecture: Architecture, mode: str
) -> None:
    with emulating(architecture):
        y, made = norms(torch.randn(3, n).bfloat16(), "fp8_e4m3", mode)
    assert_codes(y, made, "fp8_e4m3", mode)


@pytest.mark.parametrize("n", [1, 31, 33, 127, 129])
@pytest.mark.parametrize("mode", DYNAMIC)
def test_the_last_chunk_is_shorter(n: int, mode: str, device: torch.device) -> None:
    y, made = norms(torch.randn(5, n, device=device).half(), "int8", mode)
    assert_codes(y, made, "int8", mode)
    assert made.scales is not None
    groups = {"token": 1, "chunk128": -(-n // 128), "mx32": -(-n // 32)}[mode]
    assert made.scales.shape == (5, groups)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("format", "top"), [("fp8_e4m3", 448.0), ("int8", 127.0)])
def test_a_given_scale_saturates(
    format: str, top: float, dtype: torch.dtype, device: torch.device
) -> None:
    x = torch.randn(5, 1000, device=device).to(dtype)
    for value in (0.003, 2.0 / top, 1e-20, 1e-38, 1e30):
        given = torch.tensor([value], device=device)
        y = row_forward(x, "layer", 1e-5).y
        made = row_forward(
            x, "layer", 1e-5, quantization=Quantization(format, "static"), given_scale=given
        )
        assert y is not None
        assert made.codes is not None
        assert made.scales is given
        expected = (y.float() / given).clamp(-top, top)
        if format == "int8":
            expected = expected.round()
        assert torch.equal(made.codes, expected.to(made.codes.dtype))


@pytest.mark.parametrize("format", FORMAT_NAMES)
@pytest.mark.parametrize("mode", DYNAMIC)
def test_what_is_not_finite_leaves_the_scale_alone(
    mode: str, format: str, device: torch.device
) -> None:
    weight = torch.ones(1000, device=device)
    weight[3], weight[200] = float("nan"), float("inf")
    y, made = norms(torch.randn(3, 1000, device=device), format, mode, weight)
    assert y.isnan().any()
    assert y.isinf().any()
    assert made.codes is not None
    scale, _ = expected(y, format, mode)
    assert made.scales is not None
    assert torch.equal(made.scales, scale)
    codes, top = made.codes.float(), BY_NAME[format].max
    assert torch.equal(codes[:, 200], torch.where(y[:, 200] > 0, top, -top))
    nan = codes[:, 3]
    assert nan.isnan().all() if format == "fp8_e4m3" else not nan.any()


def test_the_sum_comes_with_the_codes(device: torch.device) -> None:
    x, residual = torch.randn(2, 4, 100, device=device).half()
    made = row_forward(
        x, "rms", 1e-6, residual=residual, quantization=Quantization("int8", "token")
    )
    total = x + residual
    y, alone = norms(total, "int8", "token")
    assert made.total is not None
    assert made.codes is not None
    assert alone.codes is not None
    assert torch.equal(made.total, total)
    assert torch.equal(made.codes, alone.codes)
    assert_codes(y, made, "int8", "token")


def test_scales_have_the_axes_of_the_input(device: torch.device) -> None:
    x = torch.randn(2, 3, 200, device=device)
    _, made = norms(x, "fp8_e4m3", "chunk128")
    assert made.codes is not None
    assert made.scales is not None
    assert made.codes.shape == x.shape
    assert made.scales.shape == (2, 3, 2)
