"""Moments: what rounding needs to know of what a linear map reads, summed over calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Bytes of one float64.
_DOUBLE = 8
#: Largest value, and reciprocal of the least largest one, that float32 products are formed of: outputs
#: of such inputs and weights have squares, and sums of them, that float32 holds.
_TAME = 1e6


@dataclass
class MomentSums:
    """Sums over patches: x̂ of the quantized model, x the same patch in the float model, W the weight."""

    #: Σ x̂ x̂ᵀ: (g, in, in) float64.
    moments: Tensor
    #: Σ x̂ (x̂ − x)ᵀ: (g, in, in) float64.
    shift: Tensor
    #: Patches of each group.
    patches: int = 0
    #: Σ ‖W x‖².
    power: float = 0.0
    #: Σ ‖W (x̂ − x)‖².
    inherited: float = 0.0

    @classmethod
    def empty(cls, groups: int, width: int, device: torch.device) -> MomentSums:
        """Sums of nothing."""
        zeros = torch.zeros(groups, width, width, dtype=torch.float64, device=device)
        return cls(zeros, zeros.clone())

    def add(self, quantized: Tensor, float_: Tensor, weight: Tensor) -> None:
        """Add patches x̂ and x (g, patches, in) of a map by ``weight`` (g, out, in).

        A patch with NaN or ±Inf in either model is passed over. Products are float32, and float64 where
        sizes are such that squares might leave its range.
        """
        quantized, float_ = quantized.float(), float_.float()
        sizes = [_size(quantized), _size(float_)]
        if not all(map(math.isfinite, sizes)):
            whole = (quantized.isfinite() & float_.isfinite()).all(dim=2).all(dim=0)
            quantized, float_ = quantized[:, whole], float_[:, whole]
            sizes = [_size(quantized), _size(float_)]
        if not all(1.0 / _TAME <= size <= _TAME for size in (*sizes, _size(weight))):
            quantized, float_, weight = quantized.double(), float_.double(), weight.double()
        gap = quantized - float_
        self.moments += quantized.mT @ quantized
        self.shift += quantized.mT @ gap
        self.patches += quantized.shape[1]
        self.power += float((float_ @ weight.mT).square().sum(dtype=torch.float64))
        self.inherited += float((gap @ weight.mT).square().sum(dtype=torch.float64))

    def error(self, weight: Tensor, values: Tensor) -> float:
        """``Σ ‖W x − W̃ x̂‖²`` for W̃ = ``values``; all (g, out, in)."""
        exact = weight.double()
        delta = values.double() - exact
        pull = delta @ self.moments + 2.0 * exact @ self.shift.mT
        # By cancellation a vanishing error may come out below zero.
        return max(float((delta * pull).sum()) + self.inherited, 0.0)

    def sqnr_db(self, error: float) -> float:
        """``10 log10(Σ ‖W x‖² / error)``; inf without an error, NaN where nothing was seen."""
        if not self.power:
            return math.nan
        return 10.0 * math.log10(self.power / error) if error else math.inf


@dataclass
class SeenInputs:
    """What calibration saw of the inputs of one layer."""

    #: Sums that the weights are rounded by.
    fit: MomentSums
    #: Sums over images held back, that the result is judged by.
    held: MomentSums
    #: Samples of x̂ and x, (g, rows, in) float32 each; empty where no rule asked for any.
    rows: list[tuple[Tensor, Tensor]]

    @classmethod
    def empty(cls, groups: int, width: int, device: torch.device) -> SeenInputs:
        """Nothing seen yet."""
        fit, held = (MomentSums.empty(groups, width, device) for _ in range(2))
        return cls(fit, held, [])

    @property
    def judge(self) -> MomentSums:
        """The sums over images held back; those of the fit where there were too few images."""
        return self.held if self.held.patches else self.fit

    def sample(self) -> tuple[Tensor | None, Tensor | None]:
        """The samples of x̂ and of x, each whole; None for both where there is no row."""
        if not sum(quantized.shape[1] for quantized, _ in self.rows):
            return None, None
        quantized, float_ = (torch.cat(part, dim=1) for part in zip(*self.rows, strict=True))
        return quantized, float_


def _size(x: Tensor) -> float:
    """The largest magnitude: NaN where there is one, 0 where there is nothing."""
    if not x.numel():
        return 0.0
    low, high = x.aminmax()
    return float(torch.maximum(-low, high))


def bytes_of(groups: int, width: int, rows: int) -> int:
    """Bytes that ``SeenInputs`` of such a map takes."""
    return groups * width * (4 * width * _DOUBLE + rows * _DOUBLE)
