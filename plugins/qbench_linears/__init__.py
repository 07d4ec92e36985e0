"""Linear layers to compare with: float ones, the naive way, and those of other libraries."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

from torch import nn

from qbench_linears import quanto, torchao
from qbench_linears.compiled import compiled, uncompilable
from qbench_linears.dequantizing import DequantizingLinear
from qbench_suite import LinearEntry, hookimpl


def _copied(linear: nn.Linear) -> nn.Module:
    return copy.deepcopy(linear)


LINEARS = (
    LinearEntry(
        name="float32",
        build=_copied,
        format="fp32",
        dtypes=("float32",),
        description="torch's own; its speed-up over itself says how far timings can be trusted",
    ),
    LinearEntry(
        name="float32.compiled",
        build=functools.partial(compiled, _copied),
        format="fp32",
        dtypes=("float32",),
        unavailable=uncompilable,
        description="the same, compiled with frozen weights",
    ),
    LinearEntry(
        name="bfloat16",
        build=_copied,
        format="bf16",
        dtypes=("bfloat16",),
        description="torch's own in bfloat16",
    ),
    LinearEntry(
        name="bfloat16.compiled",
        build=functools.partial(compiled, _copied),
        format="bf16",
        dtypes=("bfloat16",),
        unavailable=uncompilable,
        description="the same, compiled with frozen weights",
    ),
    LinearEntry(
        name="dequantize",
        build=DequantizingLinear,
        format="int8",
        description="int8 weights, made float in every forward: the naive way",
    ),
    LinearEntry(
        name="torchao.int8wo",
        build=torchao.build,
        format="int8",
        unavailable=torchao.unavailable,
        description="torchao, Int8WeightOnlyConfig, eager",
        default=True,
    ),
    LinearEntry(
        name="torchao.int8wo.compiled",
        build=torchao.build_compiled,
        format="int8",
        unavailable=lambda device: torchao.unavailable(device) or uncompilable(device),
        description="the same, compiled with frozen weights",
    ),
    LinearEntry(
        name="quanto.int8",
        build=quanto.build,
        format="int8",
        unavailable=quanto.unavailable,
        description="optimum-quanto, weights qint8",
        default=True,
    ),
)


@hookimpl
def qbench_register_linears(register: Callable[[LinearEntry], None]) -> None:
    """Register every linear layer of this module."""
    for entry in LINEARS:
        register(entry)
