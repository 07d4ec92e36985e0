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
#: The bit of each dtype in what the library says it was built for, and of a unit for tiles of bfloat16.
_FEATURES = {torch.float32: 1, torch.bfloat16: 2}
_TILE_UNIT = 4
#: Rows up to which a product in bfloat16 waits for its weights even where there is such a unit.
_FEW_ROWS = 16


@functools.cache
def _features() -> int:
    library = LIBRARY.load()
    return 0 if library is None else int(library.w8a16_features())


@functools.cache
def function(dtype: torch.dtype) -> Any:
    """The C function for inputs of ``dtype``; None where there is none on this machine."""
    library = LIBRARY.load() if _FEATURES.get(dtype, 0) & _features() else None
    if library is None:
        return None
    found = getattr(library, f"w8a16_{str(dtype).removeprefix('torch.')}")
    found.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 4 + [ctypes.c_int]
    found.restype = None
    return found


def most_rows(dtype: torch.dtype) -> int:
    """The most rows for which the function is the fastest there is; 0 where there is no function."""
    if function(dtype) is None:
        return 0
    return _FEW_ROWS if dtype is torch.bfloat16 and _features() & _TILE_UNIT else sys.maxsize


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
    (rows, width), outputs, dtype = x.shape, codes.shape[0], x.dtype
    y = x.new_empty(rows, outputs)
    # Held until the call is over: a copy that only its address remembers is freed.
    x, codes, scales = x.contiguous(), codes.contiguous(), scales.contiguous()
    if bias is not None:
        bias = (bias if bias.dtype is dtype else bias.to(dtype)).contiguous()
    function(dtype)(
        x.data_ptr(),
        codes.data_ptr(),
        scales.data_ptr(),
        None if bias is None else bias.data_ptr(),
        y.data_ptr(),
        rows,
        outputs,
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
