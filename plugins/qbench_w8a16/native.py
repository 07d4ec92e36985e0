"""The CPU kernel: C++ that is built on first use, and called with plain pointers."""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qbench_suite import NativeLibrary
from qbench_w8a16.codes import bits_of

LIBRARY = NativeLibrary(Path(__file__).parent / "csrc" / "linear.cpp")
#: The bit of each dtype in what the library says it was built for, and of processors that multiply tiles.
_FEATURES = {torch.float32: 1, torch.bfloat16: 2}
_TILES = 4
#: Bits → the most rows of bfloat16 for which decoding on the way beats float weights for the library.
_MOST_ROWS = {8: 192, 4: 96}
#: The same where the library multiplies tiles: about as long as it waits for bfloat16 weights.
_MOST_ROWS_BESIDE_TILES = 16


@functools.cache
def function(dtype: torch.dtype) -> Any:
    """The C function for inputs of ``dtype``; None where there is none on this machine."""
    library = LIBRARY.load() if dtype in _FEATURES else None
    if library is None or not library.w8a16_features() & _FEATURES[dtype]:
        return None
    found = getattr(library, f"w8a16_{str(dtype).removeprefix('torch.')}")
    found.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 4 + [ctypes.c_int]
    found.restype = None
    return found


def most_rows(dtype: torch.dtype, bits: int) -> int:
    """The most rows for which the function is the fastest there is; 0 where there is no function."""
    if function(dtype) is None:
        return 0
    if dtype is torch.float32:
        return sys.maxsize
    library = LIBRARY.load()
    tiles = library is not None and library.w8a16_features() & _TILES
    return _MOST_ROWS_BESIDE_TILES if tiles else _MOST_ROWS[bits]


@functools.cache
def decoder(dtype: torch.dtype) -> Any:
    """The C function that makes weights of ``dtype`` out of codes; None without a C++ compiler."""
    library = LIBRARY.load() if dtype in _FEATURES else None
    if library is None:
        return None
    found = getattr(library, f"w8a16_weights_{str(dtype).removeprefix('torch.')}")
    found.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 3 + [ctypes.c_int]
    found.restype = None
    return found


def linear(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, group: int) -> Tensor:
    """(rows, in) → (rows, out), all sums in float32, rounded once."""
    rows, width = x.shape
    y = torch.empty(rows, codes.shape[0], dtype=x.dtype)
    x, codes, scales = x.contiguous(), codes.contiguous(), scales.contiguous()
    bias = None if bias is None else bias.to(torch.float32).contiguous()
    function(x.dtype)(
        x.data_ptr(),
        codes.data_ptr(),
        scales.data_ptr(),
        None if bias is None else bias.data_ptr(),
        y.data_ptr(),
        rows,
        codes.shape[0],
        width,
        group,
        bits_of(codes),
    )
    return y


def decode(codes: Tensor, scales: Tensor, group: int, weights: Tensor) -> None:
    """Write ``code · scale``, rounded once to its dtype, into ``weights`` (out, in), contiguous."""
    codes, scales = codes.contiguous(), scales.contiguous()
    decoder(weights.dtype)(
        codes.data_ptr(),
        scales.data_ptr(),
        weights.data_ptr(),
        *weights.shape,
        group,
        bits_of(codes),
    )
