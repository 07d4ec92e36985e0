"""Which kernel computes a linear layer, and the operator that torch sees."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qbench_suite import LayerError
from qbench_w8a16 import native, tiles
from qbench_w8a16.codes import bits_of, dequantized

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
    return x.is_cpu and x.shape[0] <= native.most_rows(x.dtype)


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
    return x.is_cuda and x.dtype is not torch.float64 and whole_blocks and _has_triton()


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
    return x.to(torch.float32) if x.dtype is torch.float16 and x.is_cpu else x


def kernel_for(x: Tensor, codes: Tensor, scales: Tensor, group: int) -> Kernel:
    """The kernel that computes these inputs (rows, in), ``widened`` before."""
    for kernel in KERNELS:
        if kernel.fits(x, codes, scales, group):
            return kernel
    raise AssertionError("the last kernel fits everything")


def _linear(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, group: int) -> Tensor:
    _check_devices(x, codes, scales, bias)
    _check_layout(x, codes, scales, bias, group)
    if scales.dtype is not torch.float32:  # an exported program's .to(dtype) rounds them
        scales = scales.to(torch.float32)
    plain = x.dim() == 2
    rows = widened(x if plain else x.reshape(-1, x.shape[-1]))
    if not rows.shape[0]:
        return _fake(x, codes, scales, bias, group)
    y = kernel_for(rows, codes, scales, group).run(rows, codes, scales, bias, group)
    y = y if y.dtype is x.dtype else y.to(x.dtype)
    return y if plain else y.view(*x.shape[:-1], codes.shape[0])


def _fake(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, group: int) -> Tensor:
    _check_devices(x, codes, scales, bias)
    return x.new_empty(*x.shape[:-1], codes.shape[0])


def _check_devices(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> None:
    where = x.device
    if codes.device == where == scales.device and (bias is None or bias.device == where):
        return
    held = "" if bias is None else f", the bias on {bias.device}"
    raise LayerError(
        f"Inputs and weights are on one device; got inputs on {where}, codes on {codes.device}, scales "
        f"on {scales.device}{held}. Move the layer, or the inputs, with .to(device)."
    )


def _check_layout(
    x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, group: int
) -> None:
    """Kernels read memory by these sizes: a wrong one would read beyond its end."""
    outputs, width = codes.shape[0], x.shape[-1]
    if codes.dtype is torch.int8:
        fit = codes.shape[1] == width and group > 0
    else:
        fit = codes.shape[1] == (width + 1) // 2 and codes.dtype is torch.uint8
        fit = fit and (group >= width or (group > 0 and group % 2 == 0))
    if (
        fit
        and scales.shape == (outputs, -(-width // group))
        and (bias is None or bias.shape == (outputs,))
    ):
        return
    held = None if bias is None else tuple(bias.shape)
    raise LayerError(
        "Codes are int8 (out, in), or uint8 (out, ⌈in / 2⌉) with even groups; scales (out, ⌈in / group⌉); "
        f"a bias (out,); got inputs {tuple(x.shape)}, codes {codes.dtype} {tuple(codes.shape)}, scales "
        f"{tuple(scales.shape)}, bias {held} and group {group}. Take all of them from one layer."
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, codes, scales, bias, group = inputs
    ctx.save_for_backward(codes, scales)
    ctx.group, ctx.width, ctx.bias = group, x.shape[-1], None if bias is None else bias.dtype


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    codes, scales = ctx.saved_tensors
    of_x, _, of_scales, of_bias, _ = ctx.needs_input_grad
    if of_scales:
        raise LayerError(
            "Scales have no gradient; got scales that require one. Call requires_grad_(False) on them."
        )
    x = bias = None
    if of_x:
        weights = dequantized(codes, scales.to(torch.float32), ctx.group, ctx.width)
        x = grad @ weights.to(grad.dtype)
    if of_bias:
        bias = grad.reshape(-1, grad.shape[-1]).sum(0).to(ctx.bias)
    return x, None, None, bias, None


# A bare library, as torch.library.custom_op spends more on a call than a small product takes.
_library = torch.library.Library("qbench_w8a16", "FRAGMENT")  # type: ignore[no-untyped-call]
if not hasattr(torch.ops.qbench_w8a16, "linear"):
    _library.define(  # type: ignore[no-untyped-call]
        "linear(Tensor x, Tensor codes, Tensor scales, Tensor? bias, int group) -> Tensor",
        tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order),
    )
    _library.impl("linear", _linear, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake("qbench_w8a16::linear", _fake, lib=_library)
    torch.library.register_autograd(
        "qbench_w8a16::linear", _gradients, setup_context=_save, lib=_library
    )

#: ``linear(x, codes, scales, bias, group)``: x of any leading dims; opaque to compilers and exporters.
linear: Linear = torch.ops.qbench_w8a16.linear.default


def inferred(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, group: int) -> Tensor:
    """``linear`` where nothing needs a gradient: autograd in Python costs more than a small product."""
    with torch._C._AutoDispatchBelowAutograd():
        return linear(x, codes, scales, bias, group)
