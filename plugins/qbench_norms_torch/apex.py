"""Norms of Apex: https://github.com/NVIDIA/apex."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from qbench_norms_torch.entries import HAS_CUDA, Inputs, Outputs, entries, installed, needing
from qbench_suite import NormKernel

#: Its extension with the norms: another package on the index is called apex too.
_EXTENSION = "fused_layer_norm_cuda"


def _functions() -> Any:
    return importlib.import_module("apex.normalization.fused_layer_norm")


def _layer_norm(inputs: Inputs) -> Outputs:
    x = inputs["x"]
    given = (inputs["weight"], inputs["bias"], x.shape[-1:], inputs["eps"])
    return (_functions().fused_layer_norm_affine(x, *given),)


def _rms_norm(inputs: Inputs) -> Outputs:
    x = inputs["x"]
    given = (inputs["weight"], x.shape[-1:], inputs["eps"])
    return (_functions().fused_rms_norm_affine(x, *given),)


_entries = functools.partial(
    entries,
    provider="apex",
    unavailable=needing(_EXTENSION, "build apex with its CUDA extensions, from its repository"),
    default=HAS_CUDA and installed(_EXTENSION),
    description="Apex's fused norms",
)
KERNELS: tuple[NormKernel, ...] = (
    *_entries("layer_norm", _layer_norm, affine=("weight_bias",)),
    *_entries("rms_norm", _rms_norm, affine=("weight",)),
)
