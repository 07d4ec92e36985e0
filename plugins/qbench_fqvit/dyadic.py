"""Dyadic: real factors as integers, ``m / 2^s``, and the checks that they fit."""

from __future__ import annotations

import torch
from torch import Tensor

from qbench_suite import ConversionError

_INT32 = 2**31 - 1
_MAX_SHIFT = 62


def dyadic(ratio: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """``m`` int32 and ``s`` int8 with ``m / 2^s ≈ ratio``, elementwise: relative error ≤ 2⁻³¹.

    Below 2⁻³² the shift stays at 62 and m loses bits. Raises ``ConversionError`` for a ratio that is
    not finite or too large for a shift of at least 1, naming ``what`` it belongs to.
    """
    shift = shift_of(ratio, what)
    return as_int32(ratio.double() * 2.0 ** shift.double(), what), shift.to(torch.int8)


def common_dyadic(*ratios: Tensor, what: str) -> tuple[list[Tensor], Tensor]:
    """Like ``dyadic`` for several ratios that share one shift at each place, that of the largest."""
    shift = torch.stack([shift_of(ratio, what) for ratio in ratios]).amin(0)
    factor = 2.0 ** shift.double()
    return [as_int32(r.double() * factor, what) for r in ratios], shift.to(torch.int8)


def as_int32(values: Tensor, what: str) -> Tensor:
    """``values`` rounded to int32, ties to even.

    Raises ``ConversionError`` where one is NaN or does not fit.
    """
    rounded = torch.round(values.double())
    largest = rounded.abs().max().item() if rounded.numel() else 0.0
    if not largest <= _INT32:
        raise ConversionError(
            f"Integers of {what} fit 32 bits; the largest is {largest:g}. The scales before and after "
            "it lie too far apart: look for a dead or exploding channel, or leave the block float."
        )
    return rounded.to(torch.int32)


def shift_of(ratio: Tensor, what: str) -> Tensor:
    """The shift that brings each ratio into 2³⁰ … 2³¹, at most 62."""
    ratio = ratio.double()
    if not bool((ratio.isfinite() & (ratio >= 0)).all()):
        raise ConversionError(
            f"Scales of {what} are positive and finite; a ratio of them is {ratio.max().item():g}. "
            "Look for NaN or a channel of zeros in the calibration data."
        )
    _, exponent = torch.frexp(ratio.clamp_min(2.0**-70))
    # Rounding may reach 2³¹ itself, one too many.
    carried = torch.round(ratio * 2.0 ** (31 - exponent).double()) >= 2.0**31
    shift = (31 - exponent - carried.int()).clamp_max(_MAX_SHIFT)
    if int(shift.min()) < 1:
        raise ConversionError(
            f"A factor of {what} is below 2³⁰; the largest is {ratio.max().item():g}. The scales before "
            "and after it lie too far apart: calibrate on other images, or leave the block float."
        )
    return shift
