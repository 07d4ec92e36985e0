"""Norms of Liger Kernel, in Triton: https://github.com/linkedin/Liger-Kernel."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from qbench_norms_torch.entries import HAS_CUDA, Inputs, Outputs, entries, installed, needing
from qbench_suite import NormKernel, NormOperation


def _functions() -> Any:
    return importlib.import_module("liger_kernel.transformers.functional")


def _layer_norm(inputs: Inputs) -> Outputs:
    given = (inputs["x"], inputs["weight"], inputs["bias"], inputs["eps"])
    return (_functions().liger_layer_norm(*given),)


#: Of its modes of RMSNorm the one that rounds once; and gradients in a tensor of their own, since in
#: place they would overwrite the incoming ones.
_MODE = {"casting_mode": "gemma", "in_place": False}


def _rms_norm(inputs: Inputs) -> Outputs:
    given = (inputs["x"], inputs["weight"], inputs["eps"], inputs["weight_offset"])
    return (_functions().liger_rms_norm(*given, **_MODE),)


def _add_rms_norm(inputs: Inputs) -> Outputs:
    given = (inputs["x"], inputs["residual"], inputs["weight"], inputs["eps"])
    outputs = _functions().liger_fused_add_rms_norm(*given, inputs["weight_offset"], **_MODE)
    return tuple(outputs)


def _group_norm(inputs: Inputs) -> Outputs:
    x, groups = inputs["x"], inputs["groups"]
    given = (inputs["weight"], inputs["bias"], x.shape[1], groups, inputs["eps"])
    return (_functions().liger_group_norm(x, *given),)


def _dynamic_tanh(inputs: Inputs) -> Outputs:
    given = (inputs["x"], inputs["alpha"], inputs["weight"], inputs["bias"])
    return (_functions().liger_dyt(*given),)


#: Elements of the longest row it takes: a block of triton.
_LONGEST = 65536


def _misfit(operation: NormOperation, shape: tuple[int, ...], _: str) -> str:
    fits = operation.layout != "rows" or shape[-1] <= _LONGEST
    return "" if fits else f"it takes rows of up to {_LONGEST:,} elements"


_entries = functools.partial(
    entries,
    provider="liger",
    unavailable=needing("liger_kernel", "pip install liger-kernel"),
    default=HAS_CUDA and installed("liger_kernel"),
    description="Liger Kernel's, in Triton",
    misfit=_misfit,
)
KERNELS: tuple[NormKernel, ...] = (
    *_entries("layer_norm", _layer_norm, affine=("weight_bias",)),
    *_entries("rms_norm", _rms_norm, affine=("weight", "one_plus_weight")),
    *_entries("add_rms_norm", _add_rms_norm, affine=("weight", "one_plus_weight")),
    *_entries("group_norm", _group_norm, affine=("weight_bias",)),
    *_entries("dynamic_tanh", _dynamic_tanh, affine=("weight_bias",)),
)
