"""What a plugin registers to have a norm kernel measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench_suite.errors import KernelError
from qbench_suite.norms.operation import Affine, Inputs, NormOperation, Thunk

if TYPE_CHECKING:
    import torch


def _available(_: torch.device) -> str:
    return ""


def _fits(_: tuple[int, ...], __: str) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class NormKernel:
    """An implementation of a norm operation, measured against float64 and torch's own.

    ``prepare(inputs)`` does what is done once (compiling, a forward that a backward needs) and
    returns a call without arguments that gives the outputs of ``operation``, in its order, on the
    device and in the memory order of the inputs. Outputs of a dtype narrower than the arithmetic are
    rounded once.
    """

    #: Who made it, as in case ids: ``cuda``, ``torch``, ``liger``; made of ``[A-Za-z0-9_.+]``.
    provider: str
    operation: NormOperation
    prepare: Callable[[Inputs], Thunk]
    #: Names of the dtypes that ``x`` may have.
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    #: Affine options it computes; empty for all of the operation's.
    affine: tuple[Affine, ...] = ()
    #: Why it cannot run on a device; empty where it can.
    unavailable: Callable[[torch.device], str] = _available
    #: Why it does not take a shape in a dtype; empty where it does.
    misfit: Callable[[tuple[int, ...], str], str] = _fits
    #: Largest error by dtype in ulps, where it differs from the operation's.
    tolerance_ulps: Mapping[str, float] | None = None
    #: One line for ``qbench list norms``.
    description: str = ""
    #: Whether the default grid holds it.
    default: bool = True

    @property
    def name(self) -> str:
        """``operation:provider``."""
        return f"{self.operation.name}:{self.provider}"

    def tolerance(self, dtype: str) -> float:
        """Largest error in ulps of ``dtype``."""
        return (self.tolerance_ulps or self.operation.tolerance_ulps)[dtype]

    def require(self, device: torch.device) -> None:
        """Raise ``KernelError`` where it cannot run on ``device``."""
        if reason := self.unavailable(device):
            raise KernelError(
                f"A norm kernel runs where its device and libraries are; {self.name} does not: "
                f"{reason}. Install what it needs, or leave it out of --qbench-norms."
            )
