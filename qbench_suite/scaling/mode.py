"""Mode: a granularity and a scale rule, under the name that case ids carry."""

from __future__ import annotations

from dataclasses import dataclass, field

from qbench_suite.errors import ModeError
from qbench_suite.formats import Format, IntFormat
from qbench_suite.scaling.granularity import Granularity, PerTensor
from qbench_suite.scaling.rules import AbsMax, ScaleRule


@dataclass(frozen=True, kw_only=True)
class Mode:
    """How scales are laid over a tensor.

    ``Mode(name="chunk64", granularity=PerChunk(64))`` keeps the default rule, ``amax / top``.
    """

    #: Name in case ids.
    name: str
    #: Which elements share a scale.
    granularity: Granularity
    #: How a scale follows from the absolute maximum.
    rule: ScaleRule = field(default_factory=AbsMax)
    #: One line for ``qbench list modes``.
    description: str = ""
    #: Whether the default grid holds it.
    default: bool = False

    def misfit(self, format: Format) -> str:
        """Why ``format`` does not run in this mode; empty where it does."""
        if format.scale_only:
            return f"{format.name} is a format for scales, not for elements"
        if format.unit_scale and not isinstance(self.granularity, PerTensor):
            return f"{format.name} is used without a scale, so it runs in mode tensor only"
        if format.affine and not isinstance(format, IntFormat):
            return f"{format.name} has a zero point, which only an IntFormat can have"
        if format.affine and not isinstance(self.rule, AbsMax):
            return f"{format.name} has a zero point, which the scale rule of {self.name} has not"
        return ""

    def check(self, format: Format) -> None:
        """Raise ``ModeError`` where ``format`` does not run in this mode."""
        reason = self.misfit(format)
        if reason:
            raise ModeError(
                f"A format runs in the modes it fits; {format.name}-{self.name} does not: {reason}. "
                "Choose another mode or format."
            )
