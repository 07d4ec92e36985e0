"""What kernels take: every tensor is looked at here, before anything is launched.

A launch with a wrong pointer or length would poison the device's context for the whole process.
"""

from __future__ import annotations

import math
from typing import NoReturn

import torch
from torch import Tensor

from qbench_norms_cuda.attention import MOST_WIDTH
from qbench_suite import DeviceError, LaunchError

#: Dtypes that kernels read and write; they compute in float32.
FLOATS = frozenset({torch.float32, torch.float16, torch.bfloat16})


def dtype_of(name: str, tensor: Tensor) -> torch.dtype:
    """The dtype of ``tensor``.

    Raises:
        LaunchError: it is a number or a list, or lies in memory in some sparse way.
    """
    try:
        if tensor.layout is torch.strided:
            return tensor.dtype
        found = f"a tensor of layout {tensor.layout}; convert it with .to_dense()."
    except AttributeError:
        found = f"a {type(tensor).__name__}; pass a tensor on the device of the others."
    raise LaunchError(f"kernels take dense tensors; {name} is {found}")


def check_statistic(statistic: str) -> None:
    """``statistic`` is one that rows are normalized by.

    Raises:
        LaunchError: it is another word.
    """
    if statistic not in {"layer", "rms", "l2"}:
        raise LaunchError(
            f"rows are normalized by 'layer', 'rms' or 'l2'; the statistic is {statistic!r}; "
            "name one of the three."
        )


def check_rows(name: str, x: Tensor) -> None:
    """``x`` is a tensor of rows that kernels take: a float dtype of at most 32 bits, rows not empty.

    Raises:
        LaunchError: it is not.
    """
    if dtype_of(name, x) not in FLOATS:
        _wrong_dtype(name, x)
    if x.dim() == 0 or x.shape[-1] == 0:
        raise LaunchError(
            f"a norm is taken over an axis of at least one element; {name} has shape "
            f"{tuple(x.shape)}; leave the norm out, or give it the axis it is taken over."
        )


def check_eps(eps: float) -> None:
    """``eps`` is a finite number that is not negative.

    Raises:
        LaunchError: it is negative, infinite or NaN.
    """
    if not 0.0 <= eps < math.inf:
        raise LaunchError(
            f"eps keeps a square root real, and is finite and not negative; it is {eps}; "
            "use one such as 1e-5."
        )


def check_vector(name: str, vector: Tensor, length: int, x: Tensor) -> None:
    """``vector`` has one element for each of ``length``; its dtype may be another one than that of ``x``.

    Raises:
        LaunchError: another length, or no float dtype of at most 32 bits.
        DeviceError: another device than that of ``x``.
    """
    if dtype_of(name, vector) not in FLOATS:
        _wrong_dtype(name, vector)
    if vector.dim() != 1 or vector.shape[0] != length:
        raise LaunchError(
            f"{name} has one element for each of {length}; its shape is {tuple(vector.shape)}; "
            f"pass one of shape ({length},)."
        )
    if vector.device != x.device:
        _wrong_device(name, vector, x)


def check_affine(weight: Tensor | None, bias: Tensor | None, length: int, x: Tensor) -> None:
    """``weight`` and ``bias`` fit ``x`` and each other: a bias comes with a weight of its dtype.

    Raises:
        LaunchError: one does not fit.
        DeviceError: one is on another device than ``x``.
    """
    if weight is not None:
        check_vector("weight", weight, length, x)
    if bias is not None:
        check_vector("bias", bias, length, x)
        if weight is None or weight.dtype != bias.dtype:
            raise LaunchError(
                "a bias comes with a weight of its dtype; bias is "
                f"{bias.dtype}, weight is {None if weight is None else weight.dtype}; "
                "pass both in one dtype (a weight of ones where there is none)."
            )


def check_alike(name: str, tensor: Tensor, x: Tensor) -> None:
    """``tensor`` has the shape, dtype and device of ``x``.

    Raises:
        LaunchError: another shape or dtype.
        DeviceError: another device.
    """
    _same_dtype(name, tensor, x)
    if tensor.shape != x.shape:
        raise LaunchError(
            f"{name} has the shape of the input, {tuple(x.shape)}; its shape is "
            f"{tuple(tensor.shape)}; expand or reshape it."
        )


def check_condition(name: str, tensor: Tensor, x: Tensor) -> None:
    """``tensor`` modulates ``x`` of shape (B, T, N): it is (B, 1, N) or (B, T, N), of the dtype of ``x``.

    Raises:
        LaunchError: another shape or dtype.
        DeviceError: another device.
    """
    if x.dim() != 3:
        raise LaunchError(
            "a norm is modulated for each batch or token of an input of shape (B, T, N); the input "
            f"has shape {tuple(x.shape)}; reshape it to three axes."
        )
    _same_dtype(name, tensor, x)
    batch, tokens, width = x.shape
    if tensor.shape not in ((batch, 1, width), (batch, tokens, width)):
        raise LaunchError(
            f"{name} has shape ({batch}, 1, {width}) or ({batch}, {tokens}, {width}), one row a batch or "
            f"one a token; its shape is {tuple(tensor.shape)}; unsqueeze or expand it."
        )


def check_fused(
    residual: Tensor | None,
    gate: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    x: Tensor,
) -> None:
    """What is fused with a norm of ``x`` fits it: a gate comes with a residual, a scale with a shift.

    Raises:
        LaunchError: one does not fit, or comes alone.
        DeviceError: one is on another device.
    """
    if residual is not None:
        check_alike("residual", residual, x)
    for name, condition in (("gate", gate), ("scale", scale), ("shift", shift)):
        if condition is not None:
            check_condition(name, condition, x)
    if (scale is None) != (shift is None) or (gate is not None and residual is None):
        given = {"residual": residual, "gate": gate, "scale": scale, "shift": shift}
        names = [name for name, tensor in given.items() if tensor is not None]
        raise LaunchError(
            "a gate multiplies what is added to a residual, and scale and shift come together; "
            f"given are {' and '.join(names)}; pass what is missing (zeros where there is none)."
        )


def check_statistics(name: str, values: Tensor, rows: int, x: Tensor) -> None:
    """``values`` are numbers that a forward saved: float32, one a row.

    Raises:
        LaunchError: another dtype or length.
        DeviceError: another device than that of ``x``.
    """
    check_vector(name, values, rows, x)
    if values.dtype != torch.float32:
        raise LaunchError(
            f"statistics of rows are float32; {name} is {values.dtype}; pass what the forward saved."
        )


def check_needs(needs: list[str], known: dict[str, Tensor | None]) -> None:
    """Gradients asked for are of tensors that are there; ``known``: the tensor of each gradient.

    Raises:
        LaunchError: an unknown one, or one of a tensor that is left out.
    """
    for name in needs:
        if known.get(name) is None:
            there = ", ".join(key for key, tensor in known.items() if tensor is not None)
            raise LaunchError(
                f"gradients are of tensors that were given; {name!r} is of none; ask for some of {there}."
            )


def check_number(name: str, number: Tensor, x: Tensor) -> None:
    """``number`` is one number on the device of ``x``, of any float dtype that kernels take.

    Raises:
        LaunchError: another dtype, or not one element.
        DeviceError: another device than that of ``x``.
    """
    if dtype_of(name, number) not in FLOATS:
        _wrong_dtype(name, number)
    if number.numel() != 1:
        raise LaunchError(
            f"{name} is one number; its shape is {tuple(number.shape)}; pass a tensor of one element."
        )
    if number.device != x.device:
        _wrong_device(name, number, x)


def check_heads(q: Tensor, k: Tensor, q_weight: Tensor | None, k_weight: Tensor | None) -> None:
    """Queries and keys fit each other, their weights and the kernel.

    Raises:
        LaunchError: they do not; the message names what does not.
        DeviceError: tensors on several devices.
    """
    for name, heads in (("q", q), ("k", k)):
        check_rows(name, heads)
        if heads.dim() != 4 or heads.shape[-1] != q.shape[-1] or heads.shape[-1] > MOST_WIDTH:
            raise LaunchError(
                f"queries and keys are (batch, heads, tokens, width) of one width up to {MOST_WIDTH}; "
                f"{name} has shape {tuple(heads.shape)}; reshape it, or use rms_norm."
            )
    _same_dtype("k", k, q)
    given = [(n, w) for n, w in (("q_weight", q_weight), ("k_weight", k_weight)) if w is not None]
    for name, weight in given:
        check_vector(name, weight, q.shape[-1], q)
        _same_dtype(name, weight, given[0][1])


#: (format, mode) pairs of quantized outputs.
QUANTIZATIONS = frozenset(
    {("fp8_e4m3", mode) for mode in ("static", "token", "chunk128", "mx32")}
    | {("int8", mode) for mode in ("static", "token", "chunk128")}
)


def check_quantization(format: str, mode: str, scale: Tensor | None, x: Tensor) -> None:
    """``format`` and ``mode`` are ones that kernels write; a scale comes with ``static``, and only there.

    Raises:
        LaunchError: an unknown pair, a scale missing, too many, or of another dtype or length.
        DeviceError: the scale is on another device than ``x``.
    """
    if (format, mode) not in QUANTIZATIONS:
        known = ", ".join(sorted("-".join(pair) for pair in QUANTIZATIONS))
        raise LaunchError(
            f"norms are quantized as one of {known}; {format}-{mode} is none; choose one of them."
        )
    if (scale is None) == (mode == "static"):
        raise LaunchError(
            "a scale is given where it is static, and made where it is not; mode is "
            f"{mode!r}, the scale {'missing' if scale is None else 'given'}; pass one or the other."
        )
    if scale is None:
        return
    if dtype_of("scale", scale) != torch.float32 or scale.numel() != 1:
        raise LaunchError(
            f"a static scale is one float32 number; it is {scale.dtype} of shape "
            f"{tuple(scale.shape)}; pass a float32 tensor of one element."
        )
    if scale.device != x.device:
        _wrong_device("scale", scale, x)


def _same_dtype(name: str, tensor: Tensor, x: Tensor) -> None:
    if dtype_of(name, tensor) != x.dtype:
        raise LaunchError(
            f"{name} has the dtype of what it goes with, {x.dtype}; it is {tensor.dtype}; "
            f"convert it with .to({x.dtype})."
        )
    if tensor.device != x.device:
        _wrong_device(name, tensor, x)


def _wrong_dtype(name: str, tensor: Tensor) -> NoReturn:
    raise LaunchError(
        f"kernels of norms take float32, float16 and bfloat16; {name} is {tensor.dtype}; "
        "convert it: they compute in float32 in any case."
    )


def _wrong_device(name: str, tensor: Tensor, x: Tensor) -> NoReturn:
    raise DeviceError(
        f"all tensors of a kernel are on one device; {name} is on {tensor.device}, the input on "
        f"{x.device}; move one with .to()."
    )
