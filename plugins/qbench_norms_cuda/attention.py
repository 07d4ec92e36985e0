"""RMSNorm of the heads of queries and keys in one launch, on checked tensors."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from qbench_norms_cuda.column_sum import C_NAMES
from qbench_norms_cuda.strides import widest_access
from qbench_suite import Architecture, CudaSource, LaunchPlan, architecture_of

SOURCE = CudaSource(Path(__file__).parent / "csrc" / "qk_norm.cu")
#: Longest head: a warp holds a row in registers.
MOST_WIDTH = 512
_BLOCK = 256
_WARP = 32
_Strides = ctypes.c_longlong * 3


class _Heads(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "weight", "y", "rstd")),
        *((name, ctypes.c_longlong) for name in ("rows", "outer", "inner")),
        ("x_strides", _Strides),
        ("y_strides", _Strides),
    ]


class _QkNorm(ctypes.Structure):
    _fields_ = [
        ("heads", _Heads * 2),
        ("width", ctypes.c_int),
        ("weight_offset", ctypes.c_float),
        ("eps", ctypes.c_float),
    ]


@functools.lru_cache(maxsize=1024)
def _plan(
    expression: str, blocks: int, device: torch.device, architecture: Architecture
) -> LaunchPlan:
    """The launch; ``architecture`` is that of ``device``, which the CPU may change."""
    return SOURCE.function(expression).plan(
        grid=(blocks, 2, 1), block=(_BLOCK, 1, 1), dependent=True, device=device
    )


def normalize_heads(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    eps: float,
    weight_offset: float = 0.0,
    *,
    save: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """``rms_norm`` of q and k over their last axis, and with ``save`` 1/rms of each row.

    q (B, H, T, D), k (B, H', T', D), of one dtype, any strides whose last is 1, D up to ``MOST_WIDTH``;
    weights (D,) of one dtype. What is made is dense, in the memory order of heads and tokens that the
    input has; 1/rms is float32 (B, H, T).
    """
    architecture = architecture_of(q.device)
    width, lanes = q.shape[-1], 16 // q.element_size()
    made = [_like(x, save) for x in (q, k)]
    if not q.numel() and not k.numel():
        return made[0][0], made[1][0], made[0][1], made[1][1]
    vectors = -(-width // lanes)
    threads = min(1 << (vectors - 1).bit_length(), _WARP)
    items = -(-vectors // threads)
    of_weight = q_weight if q_weight is not None else k_weight
    names = C_NAMES[q.dtype], C_NAMES[q.dtype if of_weight is None else of_weight.dtype]
    access = widest_access(
        q, *((x, s) for x in (q, k) for s in x.stride()[:-1]), (q_weight, 0), (k_weight, 0)
    )
    rows = max(q.numel(), k.numel()) // width
    expression = f"qk_norm<{', '.join(names)}, {access}, {threads}, {items}>"
    launch = _plan(expression, -(-rows * threads // _BLOCK), q.device, architecture)
    heads = (_heads(q, q_weight, *made[0]), _heads(k, k_weight, *made[1]))
    launch(_QkNorm((_Heads * 2)(*heads), width, weight_offset, eps))
    return made[0][0], made[1][0], made[0][1], made[1][1]


def _by_tokens(x: Tensor) -> bool:
    """Whether the heads of a token are nearer in memory than the tokens of a head."""
    return x.stride(1) < x.stride(2)


def _like(x: Tensor, save: bool) -> tuple[Tensor, Tensor | None]:
    """Room for what is made of ``x`` (B, H, T, D): its rows next to each other, in the order of x."""
    batch, heads, tokens, width = x.shape
    axes = (batch, tokens, heads) if _by_tokens(x) else (batch, heads, tokens)
    y = torch.empty((*axes, width), dtype=x.dtype, device=x.device)
    rstd = torch.empty(axes, dtype=torch.float32, device=x.device) if save else None
    if _by_tokens(x):
        return y.transpose(1, 2), None if rstd is None else rstd.transpose(1, 2)
    return y, rstd


def _heads(x: Tensor, weight: Tensor | None, y: Tensor, rstd: Tensor | None) -> _Heads:
    batch, heads, tokens, _ = x.shape
    # Neighbouring rows of the launch are neighbours in memory.
    outer, inner = (2, 1) if _by_tokens(x) else (1, 2)
    pointers = (None if t is None else t.data_ptr() for t in (x, weight, y, rstd))
    return _Heads(
        *pointers,
        *(batch * heads * tokens, x.shape[outer], x.shape[inner]),
        _Strides(x.stride(0), x.stride(outer), x.stride(inner)),
        _Strides(y.stride(0), y.stride(outer), y.stride(inner)),
    )
