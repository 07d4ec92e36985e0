"""Norms of QuACK, in the CuTe DSL: https://github.com/Dao-AILab/quack."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch

from qbench_norms_torch.entries import (
    HAS_CUDA,
    TOLERANCE,
    Inputs,
    Outputs,
    Thunk,
    entries,
    installed,
    needing,
)
from qbench_suite import NORM_OPERATIONS, NormKernel, NormOperation

_absent = needing("quack", "pip install quack-kernels")
_OLDEST = (9, 0)
#: Elements of the longest row, and of the longest in a backward of float32.
_LONGEST, _LONGEST_WIDE = 262144, 131072


def unavailable(device: torch.device) -> str:
    """Why QuACK cannot run; empty where it can."""
    if reason := _absent(device):
        return reason
    found = torch.cuda.get_device_capability(device)
    return "" if found >= _OLDEST else f"it is for sm_90 and later; this is sm_{found[0]}{found[1]}"


def _module() -> Any:
    return importlib.import_module("quack.rmsnorm")


def _rms_norm(inputs: Inputs) -> Outputs:
    offset = inputs["weight_offset"]
    given = (inputs["x"], inputs["weight"])
    return (_module().rmsnorm(*given, eps=inputs["eps"], weight_offset=offset),)


def _add_rms_norm(inputs: Inputs) -> Outputs:
    given = {
        "residual": inputs["residual"],
        "eps": inputs["eps"],
        "weight_offset": inputs["weight_offset"],
        "prenorm": True,
    }
    return tuple(_module().rmsnorm(inputs["x"], inputs["weight"], **given))


def _layer_norm(inputs: Inputs) -> Thunk:
    # It wants weight and bias in float32: the same values.
    weight, bias = inputs["weight"].float(), inputs["bias"].float()
    call = _module().layernorm_fwd
    return lambda: (call(inputs["x"], weight, bias, eps=inputs["eps"]),)


def _layer_norm_backward(inputs: Inputs) -> Thunk:
    x, dy = inputs["x"], inputs["dy"]
    weight, bias = inputs["weight"].float(), inputs["bias"].float()
    given = {"eps": inputs["eps"], "return_rstd": True, "return_mean": True}
    _, rstd, mean = _module().layernorm_fwd(x, weight, bias, **given)
    call = _module().layernorm_bwd
    return lambda: tuple(call(x, weight, dy, rstd, mean, True))


def _misfit(operation: NormOperation, shape: tuple[int, ...], dtype: str) -> str:
    wide = operation.direction == "backward" and dtype == "float32"
    longest = _LONGEST_WIDE if wide else _LONGEST
    return "" if shape[-1] <= longest else f"it takes rows of up to {longest:,} elements there"


_SHARED: dict[str, Any] = {
    "provider": "quack",
    "unavailable": unavailable,
    "default": HAS_CUDA and installed("quack"),
    "description": "QuACK's, in the CuTe DSL",
}
KERNELS: tuple[NormKernel, ...] = (
    *entries("rms_norm", _rms_norm, misfit=_misfit, **_SHARED),
    *entries("add_rms_norm", _add_rms_norm, misfit=_misfit, **_SHARED),
    *(
        NormKernel(
            operation=NORM_OPERATIONS[name],
            prepare=prepare,
            affine=("weight_bias",),
            misfit=functools.partial(_misfit, NORM_OPERATIONS[name]),
            tolerance_ulps=TOLERANCE[NORM_OPERATIONS[name].direction],
            **_SHARED,
        )
        for name, prepare in (
            ("layer_norm", _layer_norm),
            ("layer_norm_backward", _layer_norm_backward),
        )
    ),
)
