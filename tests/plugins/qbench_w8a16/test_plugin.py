"""What the plugin registers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qbench_suite import default_manager


@pytest.mark.parametrize(("name", "bits"), [("w8a16", 8), ("w4a16", 4)])
def test_both_widths_are_registered(name: str, bits: int) -> None:
    entry = default_manager().linears.get(name)
    assert entry.default
    assert entry.format == f"int{bits}"
    assert entry.unavailable(torch.device("cpu")) == ""
    for dtype in map(torch.__dict__.__getitem__, entry.dtypes):
        linear = nn.Linear(40, 6).to(dtype)
        layer = entry.build(linear)
        x = torch.randn(3, 40).to(dtype)
        assert layer(x).dtype == dtype
        error = (layer(x) - linear(x)).double().norm() / linear(x).double().norm()
        assert error < (0.02 if bits == 8 else 0.2)
