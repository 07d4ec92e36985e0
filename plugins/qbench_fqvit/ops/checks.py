"""What each operator takes: dtypes and shapes, checked alike for real and for fake tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from qbench_fqvit.ops import tables
from qbench_suite import LayerError

_CODES = (torch.int8,)
_BYTES = (torch.uint8,)
_WIDE = (torch.int32,)
_STREAM = (torch.int8, torch.int16)

#: Products of 255 and -128 along this many inputs stay within int32.
MAX_INPUTS = 65_536


def _expect(holds: bool, invariant: str, received: str, remedy: str) -> None:
    if not holds:
        raise LayerError(f"{invariant}; got {received}. {remedy}")


def _tensor(
    op: str, name: str, value: Tensor, dtypes: tuple[torch.dtype, ...], shape: tuple[int, ...]
) -> None:
    if value.shape != shape or value.dtype not in dtypes:
        _typed(op, name, value, dtypes)
        raise LayerError(
            f"{op} takes {name} of shape {tuple(shape)}; got {tuple(value.shape)}. "
            "Give every operand the sizes of its input."
        )


def _typed(op: str, name: str, value: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    if value.dtype not in dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise LayerError(
            f"{op} computes on integers, {name} on {names}; got {value.dtype}. "
            "Quantize it first, or give the codes in that type."
        )


def _rows(op: str, name: str, value: Tensor, dtypes: tuple[torch.dtype, ...], dims: int) -> None:
    """A tensor of any shape, of ``dims`` axes or, where that is negative, of at least as many."""
    _typed(op, name, value, dtypes)
    there = value.dim()
    if there < -dims or (dims > 0 and there != dims):
        wanted = f"{dims} axes" if dims > 0 else f"{-dims} axis or more"
        raise LayerError(
            f"{op} takes {name} of {wanted}; got shape {tuple(value.shape)}. Reshape it."
        )


def _choice(op: str, name: str, value: int, allowed: range | tuple[int, ...]) -> None:
    if value not in allowed:
        text = (
            f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else f"one of {allowed}"
        )
        raise LayerError(
            f"{op} takes {name} {text}; got {value}. Scale the operands so that it fits."
        )


def layer_norm(x: Tensor, shift: Tensor, gain: Tensor, bias: Tensor) -> None:
    """Check the operands of ``layer_norm``."""
    _rows("layer_norm", "x", x, _STREAM, -1)
    channels = x.shape[-1:]
    _tensor("layer_norm", "shift", shift, _CODES, channels)
    _tensor("layer_norm", "gain", gain, _WIDE, channels)
    _tensor("layer_norm", "bias", bias, _WIDE, channels)
    _expect(
        channels[0] > 0, "layer_norm takes one channel or more", "none", "Give it a filled input."
    )


def gemm(x: Tensor, weight: Tensor, bias: Tensor | None, op: str = "gemm") -> None:
    """Check the operands of ``gemm``, and of what begins with one."""
    _rows(op, "x", x, (*_CODES, *_BYTES), -1)
    _rows(op, "weight", weight, _CODES, 2)
    _tensor(op, "weight", weight, _CODES, (weight.shape[0], x.shape[-1]))
    if bias is not None:
        _tensor(op, "bias", bias, _WIDE, weight.shape[:1])
    _expect(
        weight.shape[1] <= MAX_INPUTS,
        f"{op} sums at most {MAX_INPUTS} products in 32 bits",
        str(weight.shape[1]),
        "Split the layer.",
    )


def _scaling(
    op: str, channels: torch.Size, multiplier: Tensor, shift: Tensor, zero_point: int
) -> None:
    _tensor(op, "multiplier", multiplier, _WIDE, channels)
    _tensor(op, "shift", shift, _CODES, channels)
    if not -(2**31) <= zero_point < 2**31:
        _choice(op, "zero_point", zero_point, range(-(2**31), 2**31))


def requantize(
    acc: Tensor, multiplier: Tensor, shift: Tensor, zero_point: int, table: Tensor | None = None
) -> None:
    """Check the operands of ``requantize``, and of ``requantize_lookup``."""
    op = "requantize" if table is None else "requantize_lookup"
    _rows(op, "acc", acc, _WIDE, -1)
    _scaling(op, acc.shape[-1:], multiplier, shift, zero_point)
    if table is not None:
        _tensor(op, "table", table, _CODES, (256,))


def residual(
    x: Tensor, acc: Tensor, x_multiplier: Tensor, acc_multiplier: Tensor, shift: Tensor, bits: int
) -> None:
    """Check the operands of ``residual``."""
    _rows("residual", "acc", acc, _WIDE, -1)
    _tensor("residual", "x", x, _STREAM, acc.shape)
    _tensor("residual", "x_multiplier", x_multiplier, _WIDE, acc.shape[-1:])
    _scaling("residual", acc.shape[-1:], acc_multiplier, shift, 0)
    _choice("residual", "bits", bits, (8, 16))


def linear_requantize(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    multiplier: Tensor,
    shift: Tensor,
    zero_point: int,
    table: Tensor | None,
) -> None:
    """Check the operands of ``linear_requantize``."""
    gemm(x, weight, bias, "linear_requantize")
    _scaling("linear_requantize", weight.shape[:1], multiplier, shift, zero_point)
    if table is not None:
        _tensor("linear_requantize", "table", table, _CODES, (256,))


def linear_residual(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stream: Tensor,
    stream_multiplier: Tensor,
    multiplier: Tensor,
    shift: Tensor,
    bits: int,
) -> None:
    """Check the operands of ``linear_residual``."""
    op = "linear_residual"
    gemm(x, weight, bias, op)
    outputs = weight.shape[:1]
    _tensor(op, "stream", stream, _STREAM, (*x.shape[:-1], *outputs))
    _tensor(op, "stream_multiplier", stream_multiplier, _WIDE, outputs)
    _scaling(op, outputs, multiplier, shift, 0)
    _choice(op, "bits", bits, (8, 16))


def scores(q: Tensor, k: Tensor) -> None:
    """Check the operands of ``scores``."""
    _rows("scores", "q", q, _CODES, 4)
    _rows("scores", "k", k, _CODES, 4)
    batch, heads, _, width = q.shape
    _tensor("scores", "k", k, _CODES, (batch, heads, k.shape[2], width))
    _choice("scores", "the head size", width, range(1, MAX_INPUTS + 1))


def _softmax(
    op: str, heads: int, multiplier: Tensor, shift: int, exp_table: Tensor, code: str
) -> None:
    _tensor(op, "multiplier", multiplier, _WIDE, (heads,))
    _choice(op, "shift", shift, range(1, 63))
    _tensor(op, "exp_table", exp_table, _WIDE, (256,))
    _code(op, code)


def _code(op: str, code: str) -> None:
    if code not in tables.CODES:
        raise LayerError(
            f"{op} takes weights in a code of {', '.join(tables.CODES)}; got {code!r}. "
            "Name one of these."
        )


def _mask(op: str, bias: Tensor | None, batch: int, heads: int, queries: int, keys: int) -> None:
    if bias is None:
        return
    _rows(op, "bias", bias, _WIDE, 4)
    windows = bias.shape[0]
    _tensor(op, "bias", bias, _WIDE, (windows, heads, queries, keys))
    _expect(
        windows > 0 and batch % windows == 0,
        f"{op} repeats the windows of bias over the batch, so they divide it",
        f"{windows} windows for a batch of {batch}",
        "Give one bias for all, or one a window.",
    )


def softmax_codes(
    values: Tensor,
    multiplier: Tensor,
    shift: int,
    exp_table: Tensor,
    bias: Tensor | None,
    code: str,
) -> None:
    """Check the operands of ``softmax_codes``."""
    _rows("softmax_codes", "scores", values, _WIDE, 4)
    batch, heads, queries, keys = values.shape
    _softmax("softmax_codes", heads, multiplier, shift, exp_table, code)
    _mask("softmax_codes", bias, batch, heads, queries, keys)


def context(codes: Tensor, v: Tensor, code: str) -> None:
    """Check the operands of ``context``."""
    _rows("context", "codes", codes, _BYTES, 4)
    _rows("context", "v", v, _CODES, 4)
    batch, heads, _, keys = codes.shape
    _tensor("context", "v", v, _CODES, (batch, heads, keys, v.shape[3]))
    _code("context", code)


def attention(
    qkv: Tensor,
    multiplier: Tensor,
    shift: int,
    exp_table: Tensor,
    bias: Tensor | None,
    out_multiplier: Tensor,
    out_shift: Tensor,
    code: str,
) -> None:
    """Check the operands of ``attention``."""
    _rows("attention", "qkv", qkv, _CODES, 5)
    batch, tokens, three, heads, width = qkv.shape
    _choice("attention", "the third size of qkv", three, (3,))
    _choice("attention", "the head size", width, range(1, MAX_INPUTS + 1))
    _softmax("attention", heads, multiplier, shift, exp_table, code)
    _mask("attention", bias, batch, heads, tokens, tokens)
    _scaling("attention", torch.Size((heads * width,)), out_multiplier, out_shift, 0)
