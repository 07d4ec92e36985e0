"""The kernel's steps on their own: static scales, raw codes, special values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qbench_formats import FORMATS
from qbench_suite import AbsMax, Format, ScaleRule
from qbench_suite.scaling.kernel import KernelKey, Operands, steps
from qbench_suite.scaling.quantizer import tensor_amax

BY_NAME = {f.name: f for f in FORMATS}
CPU = torch.device("cpu")


def run(
    format: Format,
    x: Tensor,
    *,
    rule: ScaleRule | None,
    scale: Tensor,
    zero_point: Tensor | None = None,
    dequantize: bool = True,
) -> Tensor:
    """The kernel over rows of ``x``, each one a group."""
    rounding = format.round_kernel(CPU)
    out = torch.empty_like(x)
    key = KernelKey(rounding.function, rule, (1,), format.affine, False, dequantize)
    steps(key)(
        Operands(
            x=x,
            out=out,
            scale=scale,
            zero_point=zero_point,
            noise=None,
            top=torch.tensor(format.max),
            tensor_amax=torch.tensor(0.0),
            constants=rounding.constants,
        )
    )
    return out


def test_static_scales_are_read_and_not_written() -> None:
    scale = torch.tensor([[0.5], [2.0]])
    x = torch.tensor([[1.0, 0.3, 900.0], [1.0, 3.0, -900.0]])
    got = run(BY_NAME["int8"], x, rule=None, scale=scale)
    assert got.tolist() == [[1.0, 0.5, 63.5], [0.0, 4.0, -254.0]]
    assert scale.tolist() == [[0.5], [2.0]]


def test_static_zero_points_shift_the_range() -> None:
    scale, zero_point = torch.tensor([[1.0]]), torch.tensor([[100.0]])
    x = torch.tensor([[-200.0, -100.0, 0.0, 155.0, 156.0]])
    got = run(BY_NAME["uint8"], x, rule=None, scale=scale, zero_point=zero_point)
    assert got.tolist() == [[-100.0, -100.0, 0.0, 155.0, 155.0]]


def test_dynamic_scales_are_written() -> None:
    scale = torch.full((2, 1), 9.0)
    x = torch.tensor([[127.0, 1.0], [0.0, 0.0]])
    run(BY_NAME["int8"], x, rule=AbsMax(), scale=scale)
    assert scale.tolist() == [[1.0], [1.0]]


def test_without_dequantization_the_result_is_the_value_of_the_code() -> None:
    scale = torch.tensor([[0.5]])
    got = run(
        BY_NAME["int8"], torch.tensor([[1.0, -3.0]]), rule=None, scale=scale, dequantize=False
    )
    assert got.tolist() == [[2.0, -6.0]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, -3.0], 3.0),
        ([torch.nan, 2.0, torch.inf, -torch.inf], 2.0),
        ([torch.nan, torch.inf], 0.0),
        ([-3.4028234663852886e38, 1.0], 3.4028234663852886e38),
    ],
)
def test_the_absolute_maximum_of_a_tensor_is_that_of_its_finite_values(
    values: list[float], expected: float
) -> None:
    assert tensor_amax(torch.tensor(values)).item() == expected


def test_kernels_of_a_key_are_told_apart_by_what_makes_them_differ() -> None:
    def round_to_zero(v: Tensor, noise: Tensor | None) -> Tensor:
        return v * 0

    first = KernelKey(round_to_zero, AbsMax(), (1,), False, False, True)
    assert first == KernelKey(round_to_zero, AbsMax(), (1,), False, False, True)
    assert hash(first) == hash(KernelKey(round_to_zero, AbsMax(), (1,), False, False, True))
    assert first != KernelKey(round_to_zero, AbsMax(), (0,), False, False, True)
