"""The state audit: which entries of a state dict are float, and which of these may be."""

from __future__ import annotations

import torch
from torch import nn

from qbench_suite import audit_state


def test_an_undeclared_float_is_found(codes: nn.Module) -> None:
    found = audit_state(codes)
    (use,) = found.findings
    assert (use.what, use.why, found.looked_at) == ("out_scale", "is a float32 tensor", 2)


def test_a_declared_float_is_listed(codes: nn.Module) -> None:
    found = audit_state(nn.Sequential(codes), ["*.out_scale"])
    assert found.passed
    assert found.notes == ("float, as declared: 0.out_scale",)


def test_a_pattern_declares_nothing_else(codes: nn.Module) -> None:
    codes.register_buffer("gain", torch.ones(2, dtype=torch.bfloat16))
    found = audit_state(codes, ["out_*"])
    assert [use.what for use in found.findings] == ["gain"]


def test_extra_state_may_hold_a_python_float() -> None:
    class Extra(nn.Module):
        def get_extra_state(self) -> float:
            return 0.25

    (use,) = audit_state(Extra()).findings
    assert use.why == "is the Python float 0.25"
