"""Run as a script: every width against float64, in a process of its own, as a bad read would end it."""

from __future__ import annotations

import sys

import torch
from torch import nn

from qbench_w8a16 import W8A16LinearLayer, kernels

SCHEMES = [(8, None), (8, 32), (8, 10), (4, None), (4, 32), (4, 6), (4, 4096)]
#: One, some that weights are decoded for in registers, and some that they are decoded for into panels.
ROWS = (1, 4, 13)


def weights(layer: W8A16LinearLayer, which: str) -> torch.Tensor:
    """The weights that a kernel multiplies by, in float64: rounded, unless scales apply to sums."""
    if which == "int8pack":
        return layer.codes.double() * layer.scales.to(layer.dtype).double()
    if which == "native" and layer.bits == 8 and layer.scales.shape[1] == 1:
        return layer.codes.double() * layer.scales.double()
    return layer.dequantize().to(layer.dtype).double()


def bound(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, exact: torch.Tensor
) -> torch.Tensor:
    """How far float32 sums in any order, rounded before and after the bias, may be from ``exact``."""
    sums = x.double().abs() @ weight.abs().T + bias.abs()
    rounded = (exact.abs() + bias.abs()) * torch.finfo(x.dtype).eps
    return sums * (x.shape[1] + 8) * 2**-24 + rounded


def main(which: str, last: int) -> None:
    torch.manual_seed(0)
    kernel = next(kernel for kernel in kernels.KERNELS if kernel.name == which)
    checked = 0
    for width in [*range(1, last + 1), 1000, 4096, 5000]:
        for bits, group in SCHEMES:
            linear = nn.Linear(width, 9)
            for dtype in (torch.float32, torch.bfloat16):
                layer = W8A16LinearLayer.from_float(
                    linear, bits=bits, group_size=group, dtype=dtype
                )
                assert layer.bias is not None
                call = (layer.codes, layer.scales, layer.bias, layer.group_size)
                inputs = [torch.randn(rows, width).to(dtype) for rows in ROWS]
                inputs = [x for x in inputs if kernel.fits(x, call[0], call[1], call[3])]
                if not inputs:
                    continue
                weight, bias = weights(layer, which), layer.bias.double()
                for x in inputs:
                    y = kernel.run(x, *call)
                    exact = x.double() @ weight.T + bias
                    allowed = bound(x, weight, bias, exact)
                    error = (y.double() - exact).abs()
                    assert bool((error <= allowed).all()), (width, bits, group, dtype, len(x))
                    checked += 1
    print(checked)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
