"""Stream: scales of the residual stream, chosen by the squared error that they leave on all images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qbench_fqvit.scheme import Scheme

#: Shares of the largest magnitude that are tried; of equal errors the wider range wins.
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
#: Elements that are looked at together, so that they stay in the cache.
_TOGETHER = 1 << 18


@dataclass(frozen=True)
class Stream:
    """Scales of the residual stream at one place: ``scale · 2^exponent`` a channel."""

    scale: float
    exponents: Tensor

    @property
    def steps(self) -> Tensor:
        """What a code of each channel is worth: (C,) float32."""
        return self.scale * torch.exp2(self.exponents.float())


class StreamChoice:
    """The squared error of every channel under each share of the range and each exponent.

    The largest channels may clip, as their scale, over 2^K, is what all others are rounded by.
    """

    def __init__(self, largest: float, scheme: Scheme) -> None:
        self._top = scheme.top
        shares = _SHARES if scheme.folding and scheme.observer is None else _SHARES[:1]
        whole = scheme.rounded(torch.tensor(shares) * ((largest or 1.0) / scheme.top))
        #: One scale s a share.
        self.scales = whole / 2.0**scheme.ptf
        # Errors are in units of a scale, as the squares of large values do not fit float32.
        self._unit = self.scales[:1]
        self._steps = (self.scales / self._unit)[:, None] * torch.exp2(
            torch.arange(scheme.ptf + 1.0)
        )
        #: (shares, K + 1, C) float64.
        self._errors = torch.zeros((), dtype=torch.float64)

    def observe(self, values: Tensor) -> None:
        """See one batch, (tokens, C)."""
        steps = self._steps.to(values.device)[..., None, None]
        rows = max(1, _TOGETHER // (steps.numel() * values.shape[1]))
        self._errors = self._errors.to(values.device)
        for part in torch.split(values / self._unit.to(values.device), rows):
            rounded = (part / steps).round_().clamp_(-self._top - 1, self._top).mul_(steps)
            self._errors = self._errors + rounded.sub_(part).square_().sum(2)

    def least(self) -> Tensor:
        """The squared error under each share, every channel having the exponent that is best for it."""
        unit = self._unit.double().to(self._errors.device)
        return self._errors.amin(1).sum(1) * unit.square()

    def at(self, share: int) -> Stream:
        """The scales of one of the shares."""
        return Stream(float(self.scales[share]), self._errors[share].argmin(0))
