"""What a plugin registers to have a norm kernel measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from qbench_suite.errors import KernelError
from qbench_suite.norms.operation import (
    DIRECTION_ULPS,
    Affine,
    Inputs,
    NormOperation,
    Thunk,
)
from qbench_suite.norms.requirements import require_tolerances, require_words

#: Dtypes that ``x`` may have.
DTYPES = ("float32", "float16", "bfloat16")


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
    rounded once; of integers and bool, they are those of the reference.

    Raises:
        KernelError: ``operation`` is none; ``dtypes`` is empty or no tuple of names that ``DTYPES`` has;
            ``affine`` holds an option that the operation has not; ``tolerance_ulps`` no dtype's.
    """

    #: Who made it, as in case ids: ``cuda``, ``torch``, ``liger``; made of ``[A-Za-z0-9_.+]``.
    provider: str
    operation: NormOperation
    prepare: Callable[[Inputs], Thunk]
    #: Names of the dtypes that ``x`` may have.
    dtypes: tuple[str, ...] = DTYPES
    #: Affine options it computes; empty for all of the operation's.
    affine: tuple[Affine, ...] = ()
    #: Why it cannot run on a device; empty where it can.
    unavailable: Callable[[torch.device], str] = _available
    #: Why it does not take a shape in a dtype; empty where it does.
    misfit: Callable[[tuple[int, ...], str], str] = _fits
    #: Largest error by dtype of an output in ulps, of those dtypes whose differs from the operation's.
    tolerance_ulps: Mapping[str, float] | None = None
    #: One line for ``qbench list norms``.
    description: str = ""
    #: Whether the default grid holds it.
    default: bool = True

    def __post_init__(self) -> None:
        """Refuse what would otherwise give no case, or fail far from here."""
        if not isinstance(self.operation, NormOperation):
            raise KernelError(
                f"A norm kernel computes a NormOperation; the one of {self.provider} is given "
                f"{self.operation!r}. Pass one, as NORM_OPERATIONS['rms_norm']."
            )
        require_words(f"dtypes of the norm kernel {self.name}", self.dtypes, DTYPES)
        affine = f"affine of the norm kernel {self.name}"
        require_words(affine, self.affine, self.operation.affine, some=False)
        if self.tolerance_ulps is not None:
            require_tolerances(
                f"tolerance_ulps of the norm kernel {self.name}", self.tolerance_ulps
            )

    @property
    def name(self) -> str:
        """``operation:provider``."""
        return f"{self.operation.name}:{self.provider}"

    def tolerance(self, dtype: str) -> float:
        """Largest error in ulps of an output of ``dtype``.

        Its own, else the operation's, else that of the operation's direction; 0 of integers and bool.

        Raises:
            KernelError: none of them has one of ``dtype``.
        """
        usual = DIRECTION_ULPS[self.operation.direction]
        for tolerances in (self.tolerance_ulps or {}, self.operation.tolerance_ulps, usual):
            if dtype in tolerances:
                return tolerances[dtype]
        if not getattr(torch, dtype).is_floating_point:
            return 0.0
        raise KernelError(
            f"An output is held to a tolerance; for one of {dtype} neither {self.name} nor its "
            f"operation has any. Declare it in tolerance_ulps."
        )

    def require(self, device: torch.device) -> None:
        """Raise ``KernelError`` where it cannot run on ``device``."""
        if reason := self.unavailable(device):
            raise KernelError(
                f"A norm kernel runs where its device and libraries are; {self.name} does not: "
                f"{reason}. Install what it needs, or leave it out of --qbench-norms."
            )
