"""Range rules: which range of the values observed a scale covers, beyond their absolute maximum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from qbench_suite.scaling.quantizer import Quantizer


class Range(NamedTuple):
    """The range that each group's scale is to cover: float32 tensors of one element a group."""

    low: Tensor
    high: Tensor


class Observer(ABC):
    """Sees the values of one tensor, batch by batch, and ends with a range for each of its groups.

    Its memory does not grow with the number of batches.
    """

    @abstractmethod
    def observe(self, groups: Tensor) -> None:
        """See one batch: (groups, elements) float32, NaN where a group has fewer elements.

        NaN and ±Inf are passed over. The number of groups is the same at every call.
        """

    @abstractmethod
    def range(self) -> Range:
        """The range of each group, (groups,); 0 … 0 where no finite value was seen."""


@dataclass(frozen=True, kw_only=True)
class RangeRule(ABC):
    """How a range follows from the values observed; a policy names it in ``range``."""

    #: Name in policies.
    name: str
    #: One line for ``qbench list ranges``.
    description: str = ""
    #: Whether it needs more than one batch, so that it makes no sense for weights and dynamic scales.
    static_only: bool = False

    @abstractmethod
    def observer(self, quantizer: Quantizer) -> Observer:
        """A new observer for a tensor that ``quantizer`` serves."""

    def range_of(self, groups: Tensor, quantizer: Quantizer) -> Range:
        """The range of one batch, seen as ``Observer.observe`` sees it.

        A rule that needs no memory for a single batch overrides it: weights and dynamic scales take
        this way.
        """
        observer = self.observer(quantizer)
        observer.observe(groups)
        return observer.range()
