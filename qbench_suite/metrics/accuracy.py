"""Accuracy of logits, and how the logits of two models of the same images differ.

Both are sums that can be added up, batch by batch. A row of logits with a NaN names no class: it is
wrong, and agrees with nothing.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

#: Quantile of the standard normal distribution that 95 % intervals reach to.
_Z = 1.959963984540054
_TOP = 5


class Interval(NamedTuple):
    """Ends of a confidence interval of a share, in percent."""

    low: float
    high: float


def wilson(hits: int, images: int) -> Interval | None:
    """The 95 % Wilson score interval of ``hits / images``, in percent; None without images.

    ``(p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)`` with z = 1.96, after E. B. Wilson, "Probable
    inference, the law of succession, and statistical inference", JASA 22, 1927.
    """
    if not images:
        return None
    share, spread = hits / images, _Z * _Z / images
    centre = share + spread / 2
    half = _Z * math.sqrt(share * (1 - share) / images + spread / images / 4)
    low, high = (centre - half) / (1 + spread), (centre + half) / (1 + spread)
    # Exact at the ends, where rounding would leave the last digits off.
    return Interval(100 * low if hits else 0.0, 100 * high if hits < images else 100.0)


def paired_difference(lost: int, gained: int, images: int) -> Interval | None:
    """The 95 % interval of the drop ``(lost − gained) / images``, in percent; None without images.

    With l = lost + ½, g = gained + ½, n = images + 2: ``(l − g ± z √(l + g − (l − g)²/n)) / n``, after
    A. Agresti and Y. Min, "Simple improved confidence intervals for comparing matched proportions",
    Statistics in Medicine 24, 2005. It lies within −100 … 100.
    """
    if not images:
        return None
    n, drop, flips = images + 2, lost - gained, lost + gained + 1
    half = _Z * math.sqrt(flips - drop * drop / n)
    low, high = (drop - half) / n, (drop + half) / n
    return Interval(100 * max(low, -1.0), 100 * min(high, 1.0))


@dataclass(frozen=True)
class AccuracySums:
    """What the accuracy of one model follows from.

    A class outranks another of the same logit if its number is smaller. With fewer than five classes
    top-5 counts any label that has a rank at all.
    """

    #: Images seen.
    images: int = 0
    #: Of these, how many have a label; hits are of these.
    labelled: int = 0
    #: Images whose label ranks first.
    top1: int = 0
    #: Images whose label is among the first five.
    top5: int = 0
    #: Σ of the largest softmax probability, over the images where softmax is defined.
    certainty: float = 0.0
    #: Images where it is: no logit is NaN or +Inf, and one at least is finite.
    certain: int = 0
    #: Logits that are NaN or ±Inf.
    nonfinite: int = 0

    def __add__(self, other: Self) -> AccuracySums:
        mine, others = asdict(self), asdict(other)
        return AccuracySums(**{k: mine[k] + others[k] for k in mine})

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor | None) -> AccuracySums:
        """Sums of a batch: ``logits`` (images, classes) of any float dtype, ``labels`` (images,)."""
        log_p = log_softmax(logits)
        defined = ~log_p.isnan().any(1)
        ranks = torch.full((0,), 0) if labels is None else rank_of_label(logits, labels)
        return cls(
            images=len(logits),
            labelled=len(ranks),
            top1=int((ranks < 1).sum()),
            top5=int((ranks < _TOP).sum()),
            certainty=float(log_p[defined].exp().amax(1).sum()) if bool(defined.any()) else 0.0,
            certain=int(defined.sum()),
            nonfinite=int((~logits.isfinite()).sum()),
        )

    def percent(self, hits: int) -> float | None:
        """``hits`` as a share of the labelled images; None where there is none."""
        return 100 * hits / self.labelled if self.labelled else None

    @property
    def mean_certainty(self) -> float | None:
        """Mean of the largest softmax probability; None where no image has one."""
        return self.certainty / self.certain if self.certain else None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types; ``AccuracySums(**state)`` is equal."""
        return asdict(self)


@dataclass(frozen=True)
class LogitDrift:
    """What follows from the logits of two models of the same images, beyond their error."""

    images: int = 0
    #: Images of one most probable class in both models.
    agreeing: int = 0
    #: Images that the reference gets right and the other wrong.
    lost: int = 0
    #: Images that the reference gets wrong and the other right.
    gained: int = 0
    #: Σ of Σ p log(p / q) over the images where both softmax are defined; inf where q is 0 and p not.
    divergence: float = 0.0
    #: Images where they are.
    compared: int = 0

    def __add__(self, other: Self) -> LogitDrift:
        mine, others = asdict(self), asdict(other)
        return LogitDrift(**{k: mine[k] + others[k] for k in mine})

    @classmethod
    def of(cls, reference: Tensor, logits: Tensor, labels: Tensor | None) -> LogitDrift:
        """Of a batch: both (images, classes), ``labels`` (images,) where there are any."""
        log_p, log_q = log_softmax(reference), log_softmax(logits)
        both = ~(log_p.isnan().any(1) | log_q.isnan().any(1))
        first, second = top_class(reference), top_class(logits)
        lost = gained = 0
        if labels is not None:
            right, now_right = first == labels, second == labels
            lost = int((right & ~now_right).sum())
            gained = int((~right & now_right).sum())
        return cls(
            images=len(logits),
            agreeing=int(((first == second) & (first >= 0)).sum()),
            lost=lost,
            gained=gained,
            divergence=float(divergence(log_p[both], log_q[both]).sum()),
            compared=int(both.sum()),
        )

    @property
    def agreement(self) -> float | None:
        """Share of the images of one most probable class in both, in percent; None without any."""
        return 100 * self.agreeing / self.images if self.images else None

    @property
    def kl(self) -> float | None:
        """Mean divergence in nat; None where it is defined for no image."""
        return self.divergence / self.compared if self.compared else None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types, infinities included; ``LogitDrift(**state)`` is equal."""
        return asdict(self)


def log_softmax(logits: Tensor) -> Tensor:
    """Logarithms of the probabilities in float64; a row with NaN or +Inf, or all −Inf, gives NaN."""
    wide = logits.double()
    return wide - torch.logsumexp(wide, 1, keepdim=True)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``Σ p log(p / q)`` of each row; a class with p = 0 adds nothing, one with q = 0 < p infinity."""
    terms = log_p.exp() * (log_p - log_q)
    return torch.where(log_p == -math.inf, 0.0, terms).sum(1)


def top_class(logits: Tensor) -> Tensor:
    """The class of the largest logit of each row, the first of equals; −1 for a row with a NaN."""
    largest = logits.amax(1, keepdim=True)
    classes = torch.arange(logits.shape[1], device=logits.device)
    first = torch.where(logits == largest, classes, logits.shape[1]).amin(1)
    return torch.where(logits.isnan().any(1), -1, first)


def rank_of_label(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes outrank the label of each row; the number of classes for a row with a NaN."""
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    above = ((logits > own) | ((logits == own) & earlier)).sum(1)
    return torch.where(logits.isnan().any(1), logits.shape[1] + _TOP, above)
