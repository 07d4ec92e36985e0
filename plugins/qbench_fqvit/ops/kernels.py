"""The operators in the C++ library: pointers and sizes of CPU tensors, and nothing else."""

from __future__ import annotations

import ctypes
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from qbench_fqvit.ops import tables

#: Arguments of each function of the library: ``p`` a pointer, ``i`` a 64-bit integer.
_SIGNATURES = {
    "set_tables": "pp",
    "layer_norm": "piiipppp",
    "gemm": "piiiippp",
    "requantize": "piippipp",
    "residual": "pipiippppi",
    "linear_requantize": "piiiippppipp",
    "linear_residual": "piiiipppippppi",
    "scores": "piiipiiiiiiiip",
    "softmax_codes": "piiiipippiip",
    "context": "ppiiiiiiiiip",
    "attention": "piiiipippippip",
}
#: Operands that are passed as they are; asking for their class is quicker than for a tensor.
_PLAIN = frozenset({int, bool, NoneType})
_TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64}
#: How the library counts the codes of weights.
_CODES = {code: number for number, code in enumerate(tables.CODES)}


def _table(values: list[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


def _strided(x: Tensor) -> Tensor:
    """``x`` with the channels of a head side by side, copied only where they are not."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _row_count(x: Tensor) -> int:
    return x.shape[:-1].numel()


def _stream_type(bits: int) -> torch.dtype:
    return torch.int8 if bits == 8 else torch.int16


class Kernels:
    """The operators of ``ops.operators`` on CPU tensors that have been checked."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions = {name: getattr(library, name) for name in _SIGNATURES}
        for name, function in self._functions.items():
            function.argtypes = [_TYPES[letter] for letter in _SIGNATURES[name]]
            function.restype = None
        thresholds, weights = tables.lg_thresholds(), tables.code_weights("log8")
        self._functions["set_tables"](_table(thresholds), _table(weights))

    def _run(self, name: str, *operands: Any) -> None:
        # Copies of what is not contiguous live until the call is over.
        dense = [x if x.__class__ in _PLAIN else x.contiguous() for x in operands]
        self._functions[name](*[x if x.__class__ in _PLAIN else x.data_ptr() for x in dense])

    def layer_norm(self, x: Tensor, shift: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        """``ops.layer_norm``."""
        out = torch.empty(x.shape, dtype=torch.int8)
        wide = x.dtype is torch.int16
        self._run("layer_norm", x, wide, _row_count(x), x.shape[-1], shift, gain, bias, out)
        return out

    def gemm(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``ops.gemm``."""
        out = torch.empty((*x.shape[:-1], weight.shape[0]), dtype=torch.int32)
        signed = x.dtype is torch.int8
        self._run("gemm", x, signed, _row_count(x), *weight.shape, weight, bias, out)
        return out

    def requantize(self, acc: Tensor, multiplier: Tensor, shift: Tensor, zero_point: int) -> Tensor:
        """``ops.requantize``."""
        return self.requantize_lookup(acc, multiplier, shift, zero_point, None)

    def requantize_lookup(
        self,
        acc: Tensor,
        multiplier: Tensor,
        shift: Tensor,
        zero_point: int,
        table: Tensor | None,
    ) -> Tensor:
        """``ops.requantize_lookup``."""
        out = torch.empty(acc.shape, dtype=torch.int8)
        sizes = (_row_count(acc), acc.shape[-1])
        self._run("requantize", acc, *sizes, multiplier, shift, zero_point, table, out)
        return out

    def residual(
        self,
        x: Tensor,
        acc: Tensor,
        x_multiplier: Tensor,
        acc_multiplier: Tensor,
        shift: Tensor,
        bits: int,
    ) -> Tensor:
        """``ops.residual``."""
        out = torch.empty(x.shape, dtype=_stream_type(bits))
        operands = (x, x.dtype is torch.int16, acc, _row_count(acc), acc.shape[-1])
        self._run("residual", *operands, x_multiplier, acc_multiplier, shift, out, bits == 16)
        return out

    def linear_requantize(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        multiplier: Tensor,
        shift: Tensor,
        zero_point: int,
        table: Tensor | None,
    ) -> Tensor:
        """``ops.linear_requantize``."""
        out = torch.empty((*x.shape[:-1], weight.shape[0]), dtype=torch.int8)
        product = (x, x.dtype is torch.int8, _row_count(x), *weight.shape, weight, bias)
        self._run("linear_requantize", *product, multiplier, shift, zero_point, table, out)
        return out

    def linear_residual(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stream: Tensor,
        stream_multiplier: Tensor,
        multiplier: Tensor,
        shift: Tensor,
        bits: int,
    ) -> Tensor:
        """``ops.linear_residual``."""
        out = torch.empty(stream.shape, dtype=_stream_type(bits))
        product = (x, x.dtype is torch.int8, _row_count(x), *weight.shape, weight, bias)
        added = (stream, stream.dtype is torch.int16, stream_multiplier)
        self._run("linear_residual", *product, *added, multiplier, shift, out, bits == 16)
        return out

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """``ops.scores``."""
        q, k = _strided(q), _strided(k)
        out = torch.empty((*q.shape[:3], k.shape[2]), dtype=torch.int32)
        places = (q.data_ptr(), *q.stride()[:3], k.data_ptr(), *k.stride()[:3])
        self._run("scores", *places, *q.shape[:3], *k.shape[2:], out)
        return out

    def softmax_codes(
        self,
        values: Tensor,
        multiplier: Tensor,
        shift: int,
        exp_table: Tensor,
        bias: Tensor | None,
        code: str,
    ) -> Tensor:
        """``ops.softmax_codes``."""
        out = torch.empty(values.shape, dtype=torch.uint8)
        windows = 1 if bias is None else bias.shape[0]
        softmax = (multiplier, shift, exp_table, bias, windows)
        self._run("softmax_codes", values, *values.shape, *softmax, _CODES[code], out)
        return out

    def context(self, codes: Tensor, v: Tensor, code: str) -> Tensor:
        """``ops.context``."""
        v = _strided(v)
        out = torch.empty((*codes.shape[:3], v.shape[3]), dtype=torch.int32)
        place = (v.data_ptr(), *v.stride()[:3])
        self._run("context", codes, *place, *codes.shape, v.shape[3], _CODES[code], out)
        return out

    def attention(
        self,
        qkv: Tensor,
        multiplier: Tensor,
        shift: int,
        exp_table: Tensor,
        bias: Tensor | None,
        out_multiplier: Tensor,
        out_shift: Tensor,
        code: str,
    ) -> Tensor:
        """``ops.attention``."""
        batch, tokens, _, heads, width = qkv.shape
        out = torch.empty((batch, tokens, heads * width), dtype=torch.int8)
        windows = 1 if bias is None else bias.shape[0]
        softmax = (multiplier, shift, exp_table, bias, windows)
        sizes = (batch, tokens, heads, width)
        factors = (out_multiplier, out_shift)
        self._run("attention", qkv, *sizes, *softmax, *factors, _CODES[code], out)
        return out
