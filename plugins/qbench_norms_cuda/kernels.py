"""The kernels of this package as entries of the suite: one for each operation that it computes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from qbench_norms_cuda import ops
from qbench_norms_cuda.entries import Inputs, Outputs, entry
from qbench_norms_cuda.ops import images
from qbench_norms_cuda.ops.quantized import QUANTIZED_ROW_NORM
from qbench_norms_cuda.ops.rows import ROW_NORM
from qbench_suite import NORM_OPERATIONS, NormKernel, NormOperation

_Run = Callable[[Inputs], Outputs]
#: Names of inputs in the order of the schema of rows; those that an operation has not are None.
_AFFINE = ("weight", "bias")
_FUSED = ("residual", "gate", "scale", "shift")


def _arguments(inputs: Inputs, statistic: str, fused: tuple[str, ...] = _FUSED) -> tuple[Any, ...]:
    return (
        *(inputs["x"], statistic, inputs["eps"]),
        *(inputs.get(name) for name in _AFFINE),
        inputs.get("weight_offset", 0.0),
        *(inputs.get(name) if name in fused else None for name in _FUSED),
    )


def _rows(inputs: Inputs, statistic: str) -> Outputs:
    y, total, *_ = ROW_NORM(*_arguments(inputs, statistic))
    return (y,) if total is None else (y, total)


def _quantized(inputs: Inputs, statistic: str, format: str, mode: str) -> Outputs:
    norm = _arguments(inputs, statistic, fused=("residual",))
    *made, total = QUANTIZED_ROW_NORM(*norm, format, mode, inputs.get("scale"))
    return tuple(made) if total is None else (*made, total)


def _weight_norm(inputs: Inputs) -> Outputs:
    return (ops.weight_norm(inputs["v"], inputs["g"]),)


def _dynamic_tanh(inputs: Inputs) -> Outputs:
    return (ops.dynamic_tanh(inputs["x"], inputs["alpha"], inputs["weight"], inputs["bias"]),)


def _attention(inputs: Inputs) -> Outputs:
    heads = (inputs[name] for name in ("q", "k", "v", "q_weight", "k_weight", "eps"))
    return (ops.qk_norm_attention(*heads),)


_LAYER = functools.partial(_rows, statistic="layer")
_RMS = functools.partial(_rows, statistic="rms")
#: What computes the forwards, by name of their operation.
_FORWARDS: dict[str, _Run] = {
    "layer_norm": _LAYER,
    "rms_norm": _RMS,
    "add_layer_norm": _LAYER,
    "add_rms_norm": _RMS,
    "adaptive_layer_norm": _LAYER,
    "adaptive_layer_norm_token": _LAYER,
    "gated_adaptive_layer_norm": _LAYER,
    "weight_norm": _weight_norm,
    "dynamic_tanh": _dynamic_tanh,
    "qk_norm_attention": _attention,
}


def _run_of(operation: NormOperation) -> _Run | None:
    """What computes ``operation``, or the forward that it is the backward of; None: nothing here."""
    if operation.quantized is None:
        return _FORWARDS.get(operation.forward.name if operation.forward else operation.name)
    statistic = "rms" if "rms" in operation.name else "layer"
    format, mode = operation.quantized
    return functools.partial(_quantized, statistic=statistic, format=format, mode=mode)


KERNELS: tuple[NormKernel, ...] = (
    *(
        entry(operation, run)
        for operation in NORM_OPERATIONS.values()
        if (run := _run_of(operation)) is not None
    ),
    *images.KERNELS,
)
