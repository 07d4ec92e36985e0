"""IdentityFormat: float32 itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qbench_suite import FormatError, IdentityFormat

FP32 = IdentityFormat(name="fp32")


def test_every_value_is_its_own_rounding(
    dense: Tensor, same_bits: Callable[[Tensor, Tensor], bool]
) -> None:
    special = torch.tensor([-0.0, torch.inf, -torch.inf, torch.nan, 1e-45])
    x = torch.cat([dense[:1000], special])
    assert same_bits(FP32.round(x), x)
    kernel = FP32.round_kernel(torch.device("cpu"))
    assert same_bits(kernel.function(x, None, *kernel.constants), x)
    assert torch.equal(FP32.contains(x), x.isfinite())


def test_codes_are_the_bits(dense: Tensor, same_bits: Callable[[Tensor, Tensor], bool]) -> None:
    x = torch.cat([dense[:1000], torch.tensor([-0.0, torch.inf, torch.nan])])
    codes = FP32.encode(x)
    assert torch.equal(codes, x.view(torch.int32))
    assert same_bits(FP32.decode(codes), x)


def test_the_range_is_that_of_float32() -> None:
    assert torch.finfo(torch.float32).max == FP32.max
    assert FP32.smallest == 2.0**-149
    assert FP32.unit_scale


def test_values_are_not_listed() -> None:
    with pytest.raises(FormatError, match=r"fp32 has 2\^32\. Use `round`"):
        _ = FP32.values
