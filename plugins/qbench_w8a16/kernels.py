"""Which kernel computes a linear layer, and the operator that torch sees."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qbench_w8a16 import native, tiles
from qbench_w8a16.codes import bits_of

#: Inputs (rows, in), codes, scales, bias and group → (rows, out).
Linear = Callable[[Tensor, Tensor, Tensor, Tensor | None, int], Tensor]


@dataclass(frozen=True)
class Kernel:
    """One way to compute ``x · dequantize(codes)ᵀ + bias``, and where it is used."""

    name: str
    #: Whether it computes these inputs with these codes and scales, safely, and faster than what follows.
    fits: Callable[[Tensor, Tensor, Tensor, int], bool]
    run: Linear


def _fits_native(x: Tensor, codes: Tensor, scales: Tensor, group: int) -> bool:
    return x.device.type == "cpu" and x.shape[0] <= native.most_rows(x.dtype, bits_of(codes))


def _fits_int8pack(x: Tensor, codes: Tensor, scales: Tensor, group: int) -> bool:
    """With a width that 16 does not divide, torch's kernel reads beyond the weights and crashes."""
    few = x.shape[0] <= 8 and x.shape[1] % 16 == 0
    plain = bits_of(codes) == 8 and scales.shape[1] == 1
    return x.device.type == "cpu" and x.dtype is torch.bfloat16 and few and plain


def _int8pack(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, group: int) -> Tensor:
    y = torch._weight_int8pack_mm(x.contiguous(), codes, scales[:, 0].to(x.dtype))
    return y if bias is None else y + bias


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _fits_triton(x: Tensor, codes: Tensor, scales: Tensor, group: int) -> bool:
    whole_blocks = scales.shape[1] == 1 or group % 16 == 0
    return x.device.type == "cuda" and _has_triton() and whole_blocks


def _triton(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, group: int) -> Tensor:
    from qbench_w8a16 import triton_kernel

    return triton_kernel.linear(x, codes, scales, bias, group)


#: The first that fits is used; the last always does.
KERNELS = (
    Kernel("native", _fits_native, native.linear),
    Kernel("int8pack", _fits_int8pack, _int8pack),
    Kernel("triton", _fits_triton, _triton),
    Kernel("tiles", lambda *_: True, tiles.linear),
)


def widened(x: Tensor) -> Tensor:
    """The inputs that a kernel is given: on a CPU float32 for float16, which it does not multiply."""
    half = x.device.type == "cpu" and x.dtype is torch.float16
    return x.to(torch.float32) if half else x


def kernel_for(x: Tensor, codes: Tensor, scales: Tensor, group: int) -> Kernel:
    """The kernel that computes these inputs (rows, in), ``widened`` before."""
    return next(kernel for kernel in KERNELS if kernel.fits(x, codes, scales, group))


def _linear(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, group: int) -> Tensor:
    rows = widened(x.reshape(-1, x.shape[-1]))
    if not rows.shape[0]:
        return _fake(x, codes, scales, bias, group)
    y = kernel_for(rows, codes, scales, group).run(rows, codes, scales, bias, group)
    return y.to(x.dtype).view(*x.shape[:-1], codes.shape[0])


def _fake(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, group: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], codes.shape[0])


# A bare library, as torch.library.custom_op spends more on a call than a small product takes.
_library = torch.library.Library("qbench_w8a16", "FRAGMENT")  # type: ignore[no-untyped-call]
if not hasattr(torch.ops.qbench_w8a16, "linear"):
    _library.define(  # type: ignore[no-untyped-call]
        "linear(Tensor x, Tensor codes, Tensor scales, Tensor? bias, int group) -> Tensor",
        tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order),
    )
    _library.impl("linear", _linear, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake("qbench_w8a16::linear", _fake, lib=_library)

#: ``linear(x, codes, scales, bias, group)``: x of any leading dims; opaque to compilers and exporters.
linear: Linear = torch.ops.qbench_w8a16.linear.default
