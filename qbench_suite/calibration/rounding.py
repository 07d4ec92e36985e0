"""Rounding rules: which of its two neighbours on the grid each weight goes to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qbench_suite.errors import ConversionError

#: What of a problem is a tensor.
_TENSORS = ("weight", "scale", "zero_point", "moments", "shift", "inputs", "float_inputs", "bias")


def _silent(done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, kw_only=True)
class RoundingProblem:
    """The weight of a linear map on its grid, and what the map reads.

    A convolution is a linear map of its windows; g is the number of its groups, 1 of everything else.
    ``x`` is what the map reads in the float model, ``x̂`` what it reads in the quantized one: quantized
    itself, and behind layers that are. The output error that a rule keeps small is
    ``Σ ‖W x − W̃ x̂‖²``; with ``D = W̃ − W`` it is ``tr(D M Dᵀ) + 2 tr(D S Wᵀ)``, plus a constant.

    Raises ``ConversionError`` for tensors that hold NaN or ±Inf, for scales that are not positive, for
    a sample without rows, and for shapes that do not go together.
    """

    #: W: (g, out, in) float32.
    weight: Tensor
    #: Scale of every weight: (g, out, in) float32 > 0.
    scale: Tensor
    #: Zero point of every weight, float32 integers; None for a symmetric format.
    zero_point: Tensor | None = None
    #: Least and largest code.
    low: int
    high: int
    #: M = Σ x̂ x̂ᵀ over everything calibration showed: (g, in, in) float64.
    moments: Tensor
    #: S = Σ x̂ (x̂ − x)ᵀ: (g, in, in) float64; None where x̂ = x.
    shift: Tensor | None = None
    #: A sample of x̂: (g, rows ≥ 1, in) float32; None where the rule asked for none.
    inputs: Tensor | None = None
    #: The same rows of x; None where x̂ = x.
    float_inputs: Tensor | None = None
    #: (g, out) float32; only an activation makes it matter.
    bias: Tensor | None = None
    #: What follows the layer at once, such as GELU, element by element; None for nothing.
    activation: Callable[[Tensor], Tensor] | None = None
    seed: int = 0
    #: Told how many steps are done, and how many there are.
    progress: Callable[[int, int], None] = _silent

    def __post_init__(self) -> None:
        self._check_shapes()
        for name in _TENSORS:
            tensor = getattr(self, name)
            if tensor is not None and not bool(tensor.isfinite().all()):
                count = int((~tensor.isfinite()).sum())
                raise ConversionError(
                    f"Weights are rounded by finite numbers; {count} values of {name} are NaN or ±Inf. "
                    "Look at the weights and at the calibration images, or use weight_rounding: nearest."
                )
        if not bool((self.scale > 0).all()):
            raise ConversionError(
                f"The scale of every weight is above 0; {int((self.scale <= 0).sum())} are not, the least "
                f"is {float(self.scale.min()):g}. Give a weight that is always 0 the scale 1."
            )

    def _check_shapes(self) -> None:
        if self.weight.dim() != 3 or self.low > self.high:
            raise ConversionError(
                "A rounding problem has a weight (g, out, in) and codes low ≤ high; got shape "
                f"{tuple(self.weight.shape)} and {self.low} … {self.high}. Give a plain map one group."
            )
        groups, out, width = self.weight.shape
        rows = 1 if self.inputs is None else max([1, *self.inputs.shape[1:2]])
        wanted = dict.fromkeys(("scale", "zero_point"), (groups, out, width))
        wanted |= dict.fromkeys(("moments", "shift"), (groups, width, width))
        wanted |= dict.fromkeys(("inputs", "float_inputs"), (groups, rows, width))
        for name, shape in {**wanted, "bias": (groups, out)}.items():
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ConversionError(
                    "With a weight (g, out, in) go scales and zero points of its shape, moments and shift "
                    "(g, in, in), samples (g, rows ≥ 1, in) and a bias (g, out); got weight "
                    f"{tuple(self.weight.shape)} and {name} {tuple(tensor.shape)}, not {shape}. Spread "
                    "scales over the weight, sum over patches, and give no sample instead of an empty one."
                )

    def ratio(self) -> Tensor:
        """``W / scale + zero_point``, where each weight lies among the codes: (g, out, in) float32."""
        found = self.weight / self.scale
        return found if self.zero_point is None else found + self.zero_point

    def nearest(self) -> Tensor:
        """The code nearest to each weight, ties to even, as every format rounds: (g, out, in)."""
        found = torch.round(self.weight / self.scale)
        if self.zero_point is not None:
            found = found + self.zero_point
        return found.clamp_(self.low, self.high)

    def values(self, codes: Tensor) -> Tensor:
        """W̃: what weights of these codes are worth, float32."""
        return dequantized(codes, self.scale, self.zero_point)

    def loss(self, codes: Tensor) -> float:
        """``tr(D M Dᵀ) + 2 tr(D S Wᵀ)``: the output error of these codes but for a constant."""
        delta = (self.values(codes) - self.weight).double()
        pull = delta @ self.moments
        if self.shift is not None:
            pull = pull + 2.0 * self.weight.double() @ self.shift.mT
        return float((delta * pull).sum())


def dequantized(codes: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    """``(codes − zero_point) · scale`` in float32, bit for bit as quantizers compute it."""
    codes = codes if zero_point is None else codes - zero_point
    return torch.where(codes == 0, 0.0, codes) * scale


@dataclass(frozen=True, kw_only=True)
class RoundingRule(ABC):
    """How weights are rounded to their grid; a policy names it in ``weight_rounding``."""

    #: Name in policies.
    name: str
    #: One line for ``qbench list roundings``.
    description: str = ""

    @abstractmethod
    def round(self, problem: RoundingProblem) -> Tensor:
        """The code of every weight: (g, out, in) float32 integers in ``low … high``.

        With a zero point z the weight is ``(code − z) · scale``, otherwise ``code · scale``. The same
        problem gives the same codes.
        """

    def sample_rows(self, width: int) -> int:
        """How many rows of ``inputs`` it wants of a map that sums over ``width`` elements."""
        del width
        return 0


def require(rule: RoundingRule, **allowed: tuple[bool, str]) -> None:
    """Raise ``ConversionError`` for the first parameter of ``rule`` that is not allowed.

    ``allowed`` has for each parameter whether its value may be, and the words for what may be.
    """
    for parameter, (holds, words) in allowed.items():
        if not holds:
            raise ConversionError(
                f"{parameter} of {type(rule).__name__} is {words}; rule {rule.name!r} has "
                f"{getattr(rule, parameter)!r}. Correct it where the rule is made."
            )


def is_count(value: object) -> bool:
    """Whether it is an integer above 0."""
    return isinstance(value, int) and value >= 1


@dataclass(frozen=True, kw_only=True)
class Nearest(RoundingRule):
    """Each weight to the nearest code, ties to even: what every quantizer does by itself."""

    def round(self, problem: RoundingProblem) -> Tensor:
        return problem.nearest()
