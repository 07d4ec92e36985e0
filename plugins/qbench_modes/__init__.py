"""The scaling modes that ship with the suite."""

from __future__ import annotations

import re
from collections.abc import Callable

from qbench_suite import (
    Family,
    Mode,
    PerBlock,
    PerChannel,
    PerChunk,
    PerTensor,
    PerToken,
    PowerOfTwo,
    TwoLevel,
    hookimpl,
)

MODES: tuple[Mode, ...] = (
    Mode(name="tensor", granularity=PerTensor(), description="one scale a tensor", default=True),
    Mode(
        name="channel",
        granularity=PerChannel(),
        description="a scale a channel: output channels of weights, the feature axis of inputs",
        default=True,
    ),
    Mode(
        name="token",
        granularity=PerToken(),
        description="a scale a position: every axis but the feature axis is kept",
        default=True,
    ),
    Mode(
        name="chunk128",
        granularity=PerChunk(128),
        description="a scale for 128 consecutive elements of the reduction axis",
        default=True,
    ),
    Mode(
        name="block128x128",
        granularity=PerBlock(128, 128),
        description="a scale for 128 × 128 elements",
    ),
    Mode(
        name="mx32",
        granularity=PerChunk(32),
        rule=PowerOfTwo(),
        description="OCP MX: chunks of 32 under E8M0 scales, exponent rounded down",
        default=True,
    ),
    Mode(
        name="mx32_rceil",
        granularity=PerChunk(32),
        rule=PowerOfTwo(ceil=True),
        description="MX with the scale's exponent rounded up: nothing saturates",
    ),
    Mode(
        name="nv16",
        granularity=PerChunk(16),
        rule=TwoLevel(),
        description="NVFP4: chunks of 16 under E4M3 scales under one float32 scale a tensor",
        default=True,
    ),
)


def chunk(match: re.Match[str]) -> Mode:
    """``chunk<N>``: N consecutive elements of the reduction axis share a scale."""
    return Mode(name=match[0], granularity=PerChunk(int(match["size"])))


def block(match: re.Match[str]) -> Mode:
    """``block<N>x<M>``: N rows × M elements of the reduction axis share a scale."""
    return Mode(name=match[0], granularity=PerBlock(int(match["rows"]), int(match["columns"])))


@hookimpl
def qbench_register_modes(register: Callable[[Mode | Family[Mode]], None]) -> None:
    """Register every mode of this module, and the families of chunks and blocks of any size."""
    for mode in MODES:
        register(mode)
    register(Family("chunk<N>", r"chunk(?P<size>0|[1-9][0-9]*)", chunk))
    register(
        Family("block<N>x<M>", r"block(?P<rows>0|[1-9][0-9]*)x(?P<columns>0|[1-9][0-9]*)", block)
    )
