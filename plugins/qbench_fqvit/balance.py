"""Balance: how finely each channel between two layers is cut, at the cost of the weights after it."""

from __future__ import annotations

import torch
from torch import Tensor

from qbench_fqvit.linear import TOP

#: Shares of a channel's range that its scale may follow: 0 for one scale, 1 for a scale of its own.
_SHARES = tuple(k / 8 for k in range(9))
#: A channel's range is at least this share of the mean: weights divide by its scale.
_FLOOR = 1e-3
#: Largest magnitude over root mean square, of a typical channel.
_CREST = 4.0


def balanced(largest: Tensor, weight: Tensor) -> Tensor:
    """Scales s of the channels (in,) whose codes a layer ``weight`` (out, in) reads.

    ``s_c = k · a_c^p``, a the ``largest`` magnitude (in,) of each channel, k such that no code exceeds
    127. A small p spends the codes of channels of small range, a large p those of the weight, which
    becomes ``W_oc s_c``; p is the one of least expected error of the layer's output::

        Σ_oc s_c² W_oc² + Σ_o (max_c |W_oc s_c| / 127)² Σ_c (a_c / 4 s_c)²

    Scales of a channel of zeros are positive.
    """
    mean = largest.mean()
    range = torch.maximum(largest, torch.where(mean > 0, _FLOOR * mean, 1.0)).double()
    power = weight.double().square().sum(0)
    found = []
    for share in _SHARES:
        scale = range**share * (range ** (1 - share)).max() / TOP
        step = (weight.double() * scale).abs().amax(1) / TOP
        codes = (range / scale / _CREST).square().sum()
        found.append((float((scale.square() * power).sum() + step.square().sum() * codes), scale))
    return min(found, key=lambda pair: pair[0])[1].float()
