"""Run as a script: every width against float64, in a process of its own, as a bad read would end it."""

from __future__ import annotations

import sys

import torch
from torch import nn

from qbench_w8a16 import W8A16LinearLayer, kernels

SCHEMES = [(8, None), (8, 32), (8, 10), (4, None), (4, 32), (4, 6), (4, 4096)]
ROWS = (1, 2, 3, 4, 5, 7, 13)


def bound(
    x: torch.Tensor, layer: W8A16LinearLayer, exact: torch.Tensor, weight_error: float
) -> torch.Tensor:
    """How far float32 sums in any order, rounded once or twice to the dtype, may be from ``exact``."""
    width = x.shape[1]
    sums = x.double().abs() @ layer.dequantize().double().abs().T
    if layer.bias is not None:
        sums = sums + layer.bias.double().abs()
    return sums * ((width + 8) * 2**-24 + weight_error) + exact.abs() * torch.finfo(x.dtype).eps


def main(which: str, last: int) -> None:
    torch.manual_seed(0)
    kernel = next(kernel for kernel in kernels.KERNELS if kernel.name == which)
    checked = 0
    for width in [*range(1, last + 1), 1000, 4096, 5000]:
        for bits, group in SCHEMES:
            linear = nn.Linear(width, 9)
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                layer = W8A16LinearLayer.from_float(
                    linear, bits=bits, group_size=group, dtype=dtype
                )
                assert layer.bias is not None
                for rows in ROWS:
                    x = torch.randn(rows, width).to(dtype)
                    call = (layer.codes, layer.scales, layer.bias, layer.group_size)
                    if not kernel.fits(x, call[0], call[1], call[3]):
                        continue
                    y = kernel.run(x, *call)
                    exact = x.double() @ layer.dequantize().double().T + layer.bias.double()
                    # Where scales come before the product, weights are rounded to the dtype too.
                    rounded = torch.finfo(dtype).eps if which != "native" else 0.0
                    allowed = bound(x, layer, exact, rounded)
                    error = (y.double() - exact).abs()
                    assert bool((error <= allowed).all()), (width, bits, group, dtype, rows)
                    checked += 1
    print(checked)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
