"""The entropy rule against a hand-made KL divergence, bin by bin."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qbench_ranges.entropy import FACTORS, Entropy, kl_divergence
from qbench_ranges.histogram import Histogram
from qbench_suite import Quantizer

Make = Callable[[str], Quantizer]
RULE = Entropy(name="entropy")


def divergence(counts: list[int], levels: list[float], within: int) -> float:
    """KL(P ‖ Q) by the published recipe, in plain Python."""
    p = [float(c) for c in counts[:within]]
    p[-1] += sum(counts[within:])
    q = [0.0] * within
    for level in set(levels[:within]):
        bins = [i for i in range(within) if levels[i] == level and p[i] > 0]
        mass = sum(counts[i] for i in range(within) if levels[i] == level)
        for i in bins:
            q[i] = mass / len(bins)
    p_total, q_total = sum(p), sum(q)
    result = 0.0
    for a, b in zip(p, q, strict=True):
        if a and not b:
            return math.inf
        if a:
            result += a / p_total * math.log(a / p_total / (b / q_total))
    return result


@pytest.mark.parametrize(
    ("counts", "levels", "within"),
    [
        ([4, 2, 0, 6, 1, 1], [0, 0, 1, 1, 2, 2], 6),
        ([4, 2, 0, 6, 1, 1], [0, 0, 1, 1, 2, 2], 4),
        ([10, 10, 10, 10], [0, 0, 1, 1], 2),
        ([1, 0, 0, 0, 9], [0, 1, 2, 3, 4], 3),
        ([0, 0, 5], [0, 0, 1], 2),
    ],
)
def test_divergence_is_the_hand_made_one(counts: list[int], levels: list[int], within: int) -> None:
    mask = torch.arange(len(counts)) < within
    got = kl_divergence(torch.tensor([counts]), mask[None], torch.tensor([levels]).float())
    assert float(got) == pytest.approx(divergence(counts, [float(v) for v in levels], within))


def rounded(values: Tensor, bound: float, quantizer: Quantizer) -> list[float]:
    """Each magnitude under the scale of ``bound``, by the format's table."""
    scale, table = bound / quantizer.format.max, torch.tensor(quantizer.format.values)
    nearest = (values[:, None] / scale - table).abs().argmin(dim=1)
    return [float(v) for v in table[nearest]]


@pytest.mark.parametrize("name", ["int8-tensor", "int4-tensor", "fp4_e2m1-tensor"])
def test_threshold_has_the_least_divergence_of_all_tried(quantizer: Make, name: str) -> None:
    make = quantizer(name)
    x = torch.distributions.StudentT(2.5).sample((1, 3000)).float()
    histogram = Histogram(x)
    counts, width = histogram.magnitudes[0].tolist(), float(histogram.width)
    centers = ((torch.arange(len(counts)) + 0.5) * width).clamp(max=float(histogram.absmax))
    tried = {}
    for factor in FACTORS[::8]:
        bound = float(histogram.absmax) * factor
        within = math.ceil(bound / width)
        tried[factor] = divergence(counts, rounded(centers, bound, make), within)
    low, high = RULE.range_of(x, make)
    threshold = max(-float(low), float(high))
    within = math.ceil(threshold / width)
    least = divergence(counts, rounded(centers, threshold, make), within)
    assert least <= min(tried.values()) + 1e-9


def test_outliers_are_clipped_and_the_range_is_symmetric(quantizer: Make) -> None:
    x = torch.randn(1, 50_000)
    x[0, 0], x[0, 1] = 40.0, -40.0
    low, high = RULE.range_of(x, quantizer("int8-tensor"))
    assert 2.5 < float(high) < 12
    assert float(low) == -float(high)


def test_one_sided_values_keep_their_side(quantizer: Make) -> None:
    low, high = RULE.range_of(torch.randn(1, 5000).relu(), quantizer("uint8-tensor"))
    assert float(low) == 0
    assert float(high) > 1


def test_groups_are_searched_each_by_itself(quantizer: Make) -> None:
    x = torch.randn(3, 2000) * torch.tensor([[1.0], [10.0], [0.1]])
    x[1, 0] = 1000.0
    together = RULE.range_of(x, quantizer("int8-channel")).high
    alone = [float(RULE.range_of(row[None], quantizer("int8-tensor")).high) for row in x]
    assert together.tolist() == alone


def test_batches_add_up(quantizer: Make) -> None:
    x = torch.randn(2, 4000)
    observer = RULE.observer(quantizer("int8-channel"))
    for part in x.split(500, dim=1):
        observer.observe(part)
    assert torch.equal(observer.range().high, RULE.range_of(x, quantizer("int8-channel")).high)
