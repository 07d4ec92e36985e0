"""Rows wherever they lie: strided, misaligned, beside memory that is not theirs, gigabytes apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from qbench_norms_cuda.row_forward import row_forward
from qbench_suite import NORM_OPERATIONS, NormProblem, ulp_errors
from qbench_suite.gpu.guarded import guarded

OPERATION = NORM_OPERATIONS["layer_norm"]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same values in every run."""
    torch.manual_seed(5)


def normalized(x: Tensor, **options: Any) -> Tensor:
    """LayerNorm of ``x`` by the kernel, held to float64."""
    made = row_forward(x, "layer", 1e-5, **options)
    given = {"weight": None, "bias": None, "weight_offset": 0.0, **options}
    (reference,) = OPERATION.exact({"x": x, "eps": 1e-5, **given})
    assert made.y is not None
    errors = ulp_errors(made.y, reference)
    assert errors.nonfinite == 0
    assert errors.max_ulp <= OPERATION.tolerance_ulps[str(x.dtype).removeprefix("torch.")]
    return made.y


@pytest.mark.parametrize("columns", [512, 500, 511])
def test_rows_of_a_wider_matrix_are_read_in_place(columns: int, device: torch.device) -> None:
    x = torch.randn(5, 576, device=device).half()[:, :columns]
    y = normalized(x)
    assert y.is_contiguous()
    assert torch.equal(y, normalized(x.contiguous()))


def test_a_misaligned_base_gives_the_same_bits(device: torch.device) -> None:
    flat = torch.randn(1 + 4 * 768, device=device).half()
    x, weight = flat[1:].view(4, 768), flat[3 : 3 + 768]
    assert torch.equal(normalized(x), normalized(x.clone()))
    assert torch.equal(normalized(x, weight=weight), normalized(x, weight=weight.clone()))


def test_leading_axes_of_any_strides(device: torch.device) -> None:
    x = torch.randn(3, 2, 4, 64, device=device)
    normalized(x.permute(2, 0, 1, 3))
    normalized(x[:, 1])
    normalized(x[0, 0, 0])
    normalized(x[:1, :1, :1].expand(3, 2, 1, 64))


def test_rows_more_than_two_to_the_31_elements_apart(device: torch.device) -> None:
    apart = 2**31 + 8
    if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] < 6 << 30:
        pytest.skip("the device has less than 6 GiB free")
    # Never written between the rows: the system gives no memory for it.
    storage = torch.empty(apart + 768, dtype=torch.float16, device=device)
    x = storage.as_strided((2, 768), (apart, 1))
    x.copy_(torch.randn(2, 768))
    normalized(x)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n", [7, 128, 1001])
def test_nothing_beside_the_tensors_is_read(
    n: int, dtype: torch.dtype, before: bool, device: torch.device
) -> None:
    if device.type == "cuda":
        pytest.skip("pages of the CPU are protected, not those of the device")
    drawn = OPERATION.inputs(NormProblem((3, n), dtype))
    x, weight, bias = (guarded(drawn[name], before=before) for name in ("x", "weight", "bias"))
    assert torch.equal(
        normalized(x, weight=weight, bias=bias),
        normalized(drawn["x"], weight=drawn["weight"], bias=drawn["bias"]),
    )


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n", [7, 128, 1001])
def test_nothing_beside_the_outputs_is_written(
    n: int,
    dtype: torch.dtype,
    before: bool,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if device.type == "cuda":
        pytest.skip("pages of the CPU are protected, not those of the device")
    x, residual = torch.randn(2, 3, n).to(dtype)
    expected = row_forward(x, "layer", 1e-5, residual=residual)
    empty, made = torch.empty_like, []

    def beside_a_page(like: Tensor, **kind: Any) -> Tensor:
        made.append(guarded(empty(like, **kind), before=before))
        return made[-1]

    monkeypatch.setattr(torch, "empty_like", beside_a_page)
    found = row_forward(x, "layer", 1e-5, residual=residual)
    assert found.y is made[0]
    assert found.total is made[1]
    assert expected.y is not None
    assert torch.equal(found.y, expected.y)
    assert torch.equal(found.total, x + residual)


def test_conditions_are_read_through_their_strides(device: torch.device) -> None:
    x = torch.randn(2, 3, 100, device=device)
    condition = 0.5 * torch.randn(2, 3, 600, device=device)
    for scale, shift, _ in (
        condition.chunk(6, -1)[:3],
        condition[:, :1].chunk(6, -1)[:3],
        (condition[..., 1:101], condition[:, :1, 7:107], None),
    ):
        y = row_forward(x, "layer", 1e-6, scale=scale, shift=shift).y
        exact = torch.layer_norm(x.double(), (100,), eps=1e-6)
        exact = exact * (1 + scale.double()) + shift.double()
        assert y is not None
        assert ulp_errors(y, exact).max_ulp <= 4
