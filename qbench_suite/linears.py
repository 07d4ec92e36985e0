"""What a plugin registers to have a linear layer measured: how to make it out of a float one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench_suite.errors import LayerError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from qbench_suite.layers import QuantModule


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
    #: Makes the layer out of one that a policy has converted, for ``kernel: NAME`` in policies: of the
    #: same weights bit for bit, whatever rule rounded them, on the device of that layer, which stays
    #: as it is. Raises ``LayerError`` with the reason for a layer that it does not compute as the
    #: converted one does. None: the entry is made out of float layers only.
    adopt: Callable[[QuantModule], nn.Module] | None = None

    def require(self, device: torch.device) -> None:
        """Raise ``LayerError`` where it cannot run on ``device``."""
        if reason := self.unavailable(device):
            raise LayerError(
                f"A linear layer runs where its libraries do; {self.name} does not: {reason}. Install "
                "what it needs, or leave it out of --qbench-linears and of policies."
            )
