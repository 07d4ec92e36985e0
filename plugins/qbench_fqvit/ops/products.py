"""Exact products of integer matrices in torch's own operations."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

#: CUDA's int8 product takes more rows than this, and sizes in multiples of that.
_CUDA_ROWS, _CUDA_MULTIPLE = 17, 8


@functools.cache
def _has_vnni() -> bool:
    """Whether torch's int8 product is quick here; without VNNI it was also wrong before torch 2.6."""
    probe = getattr(torch.cpu, "_is_vnni_supported", None)
    return bool(probe and probe())


def product(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T``: int8 or uint8 (M, K), int8 (N, K) → int32 (M, N), exact for K ≤ 65 536."""
    if x.device.type == "cpu" and not _has_vnni():
        return x.int() @ weight.int().t()
    if x.dtype == torch.uint8:
        # x = (x - 128) + 128, and the difference is the byte with its top bit turned.
        signed = (x ^ 128).view(torch.int8)
        sums = weight.sum(-1, dtype=torch.int32)
        return product(signed, weight) + (sums << 7)
    if x.device.type == "cuda":
        return _cuda_product(x, weight)
    return torch._int_mm(x.contiguous(), weight.contiguous().t())


def _cuda_product(x: Tensor, weight: Tensor) -> Tensor:
    rows, inputs = x.shape
    outputs = weight.shape[0]
    more_inputs, more_outputs = -inputs % _CUDA_MULTIPLE, -outputs % _CUDA_MULTIPLE
    # Zeros around the operands change no sum, and are cut off after.
    x = F.pad(x, (0, more_inputs, 0, max(0, _CUDA_ROWS - rows)))
    weight = F.pad(weight, (0, more_inputs, 0, more_outputs))
    if 0 in (*x.shape, *weight.shape):
        return x.new_zeros((rows, outputs), dtype=torch.int32)
    return torch._int_mm(x.contiguous(), weight.contiguous().t())[:rows, :outputs]


def batched(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.mT`` over the two leading axes: (B, H, M, K), (B, H, N, K) → (B, H, M, N)."""
    if x.device.type == "cpu":
        return x.int() @ weight.int().mT
    return one_by_one(x, weight)


def one_by_one(x: Tensor, weight: Tensor) -> Tensor:
    """``batched`` for devices that multiply matrices of bytes but no larger integers."""
    pairs = zip(x.flatten(0, 1), weight.flatten(0, 1), strict=True)
    made = [product(left, right) for left, right in pairs]
    shape = (*x.shape[:3], weight.shape[2])
    return torch.stack(made).reshape(shape) if made else x.new_zeros(shape, dtype=torch.int32)
