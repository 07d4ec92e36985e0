"""What a plugin registers to have a linear layer measured: how to make it out of a float one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def _available(_: torch.device) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class LinearEntry:
    """A linear layer that really computes in low precision, measured beside float32 and bfloat16.

    ``build(linear)`` returns a module for inference that maps (rows, in) to (rows, out), of the dtype
    of its input, on the device of ``linear``, whose dtype is that of the inputs to come. Two methods of
    the module are asked where it has them: ``kernel(rows) -> str`` names what so many rows run in,
    ``dequantize() -> Tensor`` gives the values that its codes stand for, (out, in).
    """

    #: Name in case ids, made of ``[A-Za-z0-9_.+:/]``.
    name: str
    #: Makes the layer out of a float one, which stays as it is.
    build: Callable[[nn.Linear], nn.Module]
    #: Name of the format that the weights are stored in.
    format: str
    #: Names of the dtypes that its inputs may have.
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    #: Why it cannot run on a device (a library is not installed); empty where it can.
    unavailable: Callable[[torch.device], str] = _available
    #: One line for ``qbench list linears``.
    description: str = ""
    #: Whether the default grid holds it.
    default: bool = False
