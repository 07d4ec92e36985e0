"""Accuracy against brute force, row by row in Python; intervals against the score test they invert."""

from __future__ import annotations

import json
import math
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench_suite.metrics import AccuracySums, LogitDrift, paired_difference, wilson

NAN, INF = math.nan, math.inf
Rows = list[list[float]]


def ranked(row: list[float]) -> list[int]:
    """Classes from most to least probable, equals by number; none for a row with a NaN."""
    if any(math.isnan(v) for v in row):
        return []
    return sorted(range(len(row)), key=lambda c: (-row[c], c))


def softmax(row: list[float]) -> list[float] | None:
    """None where it is not defined."""
    if any(math.isnan(v) or v == INF for v in row) or all(v == -INF for v in row):
        return None
    top = max(row)
    powers = [math.exp(v - top) for v in row]
    return [p / math.fsum(powers) for p in powers]


def logits(images: int, classes: int, seed: int) -> Rows:
    """Rows with many ties, and some NaN and ±Inf."""
    random = Random(seed)
    rows = [[float(random.randint(-3, 3)) for _ in range(classes)] for _ in range(images)]
    for index, value in enumerate((NAN, INF, -INF)):
        for row in rows[index::9]:
            row[random.randrange(classes)] = value
    rows[-1] = [-INF] * classes
    return rows


@pytest.mark.parametrize("classes", [1, 2, 4, 5, 10])
def test_accuracy_is_that_of_brute_force(classes: int) -> None:
    rows = logits(200, classes, classes)
    labels = [Random(i).randrange(classes) for i in range(200)]
    found = AccuracySums.of(torch.tensor(rows), torch.tensor(labels))
    pairs = list(zip(rows, labels, strict=True))
    assert found.top1 == sum(label in ranked(row)[:1] for row, label in pairs)
    assert found.top5 == sum(label in ranked(row)[:5] for row, label in pairs)
    defined = [p for row in rows if (p := softmax(row))]
    assert (found.images, found.labelled, found.certain) == (200, 200, len(defined))
    assert found.mean_certainty == pytest.approx(math.fsum(map(max, defined)) / len(defined))
    assert found.nonfinite == sum(not math.isfinite(v) for row in rows for v in row)


@pytest.mark.parametrize("classes", [2, 10])
def test_drift_is_that_of_brute_force(classes: int) -> None:
    first, second = logits(200, classes, 1), logits(200, classes, 2)
    second = [row if i % 3 else first[i] for i, row in enumerate(second)]
    labels = [Random(i).randrange(classes) for i in range(200)]
    found = LogitDrift.of(torch.tensor(first), torch.tensor(second), torch.tensor(labels))
    tops = [(ranked(a)[:1], ranked(b)[:1]) for a, b in zip(first, second, strict=True)]
    assert found.agreeing == sum(a == b != [] for a, b in tops)
    hits = [(a == [y], b == [y]) for (a, b), y in zip(tops, labels, strict=True)]
    assert (found.lost, found.gained) == (hits.count((True, False)), hits.count((False, True)))
    both = [
        (p, q)
        for a, b in zip(first, second, strict=True)
        if (p := softmax(a)) and (q := softmax(b))
    ]
    assert found.compared == len(both)
    expected = math.fsum(
        (INF if q[c] == 0 else p[c] * math.log(p[c] / q[c]))
        for p, q in both
        for c in range(classes)
        if p[c] > 0
    )
    assert found.divergence == pytest.approx(expected, rel=1e-9)


def test_divergence_of_confident_models_is_neither_zero_nor_nan() -> None:
    p, q = torch.tensor([[800.0, 0.0]]), torch.tensor([[0.0, 800.0]])
    assert LogitDrift.of(p, q, None).kl == pytest.approx(800.0)
    near = LogitDrift.of(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0 + 1e-6, 0.0]]), None).kl
    p1 = 1 / (1 + math.exp(-1))
    assert near == pytest.approx(p1 * (1 - p1) * 1e-12 / 2, rel=0.1)


def test_batches_add_up_to_the_whole() -> None:
    a, b = torch.tensor(logits(50, 6, 3)), torch.tensor(logits(50, 6, 4))
    labels = torch.arange(50) % 6
    parts = [(a[i : i + 7], b[i : i + 7], labels[i : i + 7]) for i in range(0, 50, 7)]
    whole = AccuracySums.of(b, labels)
    added = sum((AccuracySums.of(q, y) for _, q, y in parts), AccuracySums())
    assert added.to_json() == pytest.approx(whole.to_json())
    drift = sum((LogitDrift.of(p, q, y) for p, q, y in parts), LogitDrift())
    assert drift.to_json() == pytest.approx(LogitDrift.of(a, b, labels).to_json())


def test_images_without_labels_have_no_accuracy_but_agree() -> None:
    a = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    found, drift = AccuracySums.of(a, None), LogitDrift.of(a, a, None)
    assert (found.images, found.labelled, found.percent(found.top1)) == (8, 0, None)
    assert found.mean_certainty is not None
    assert (drift.agreement, drift.kl, drift.lost, drift.gained) == (100.0, 0.0, 0, 0)


def test_of_no_images_nothing_is_known() -> None:
    assert (AccuracySums().percent(0), AccuracySums().mean_certainty) == (None, None)
    assert (LogitDrift().agreement, LogitDrift().kl) == (None, None)
    spoiled = torch.full((3, 4), NAN)
    found = AccuracySums.of(spoiled, torch.zeros(3, dtype=torch.int64))
    assert (found.top1, found.top5, found.mean_certainty) == (0, 0, None)
    assert LogitDrift.of(spoiled, spoiled, None).agreement == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logits_of_any_float_dtype(dtype: torch.dtype) -> None:
    a: Tensor = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], dtype=dtype)
    assert AccuracySums.of(a, torch.tensor([2, 1])).top1 == 1


def test_state_survives_json() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    for found in (AccuracySums.of(a, torch.tensor([0, 0])), AccuracySums()):
        assert AccuracySums(**json.loads(json.dumps(found.to_json()))) == found
    endless = LogitDrift.of(a, torch.tensor([[1.0, -INF], [0.0, 1.0]]), None)
    assert endless.divergence == INF
    assert LogitDrift(**json.loads(json.dumps(endless.to_json()))) == endless


@pytest.mark.parametrize(("hits", "images"), [(0, 10), (10, 10), (5, 10), (1, 1), (917, 1000)])
def test_interval_holds_the_shares_that_the_score_test_does_not_reject(
    hits: int, images: int
) -> None:
    found = wilson(hits, images)
    assert found is not None
    share = hits / images
    kept = [
        p / 20_000
        for p in range(1, 20_000)
        if abs(share - p / 20_000) <= 1.959964 * math.sqrt(p / 20_000 * (1 - p / 20_000) / images)
    ]
    assert found.low == pytest.approx(100 * min(kept), abs=0.01)
    assert found.high == pytest.approx(100 * max(kept), abs=0.01)
    assert 0 <= found.low <= 100 * share <= found.high <= 100


def test_interval_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for hits, images in ((0, 7), (3, 7), (7, 7), (8154, 10_000)):
        expected = stats.binomtest(hits, images).proportion_ci(method="wilson")
        assert wilson(hits, images) == pytest.approx((100 * expected.low, 100 * expected.high))


def test_no_images_have_no_interval() -> None:
    assert wilson(0, 0) is None


def test_interval_of_a_drop_covers_the_true_one_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    images, lost_share, gained_share = 400, 0.06, 0.03
    shares = [lost_share, gained_share, 1 - lost_share - gained_share]
    inside = 0
    for lost, gained, _ in generator.multinomial(images, shares, size=2000):
        interval = paired_difference(int(lost), int(gained), images)
        assert interval is not None
        inside += interval.low <= 100 * (lost_share - gained_share) <= interval.high
    assert 0.93 <= inside / 2000 <= 0.975


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (5, 0), (0, 5), (10, 10), (100, 0), (0, 100)])
def test_interval_of_a_drop_holds_the_drop_and_has_a_width(lost: int, gained: int) -> None:
    interval = paired_difference(lost, gained, 100)
    assert interval is not None
    assert -100 <= interval.low <= lost - gained <= interval.high <= 100
    assert interval.low < interval.high


def test_no_images_have_no_interval_of_a_drop() -> None:
    assert paired_difference(0, 0, 0) is None
