"""Parts of a quantized tensor keep the scales that serve them."""

from __future__ import annotations

import itertools

import pytest
import torch

from qbench_formats import FORMATS
from qbench_modes import MODES
from qbench_suite import Quantizer
from qbench_suite.compliance.part import elements, first_rows, sample, source_elements

FORMAT = {format.name: format for format in FORMATS}
X = torch.randn(6, 5, 7, generator=torch.Generator().manual_seed(0))
QUANTIZERS = [
    Quantizer(FORMAT[name], mode)
    for name, mode in itertools.product(("int8", "uint8"), MODES)
    if not mode.misfit(FORMAT[name])
]


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_elements_have_their_own_scales(quantizer: Quantizer) -> None:
    result = quantizer.fake_quantize(X)
    places = torch.tensor([0, 3, 35, 77, X.numel() - 1])
    part = elements(result, places)
    assert torch.equal(part.values, result.values.view(-1)[places])
    assert torch.equal(part.spread_scale(), result.spread_scale().reshape(-1)[places])
    whole = result.spread_zero_point()
    if whole is not None:
        assert torch.equal(part.spread_zero_point(), whole.reshape(-1)[places])  # type: ignore[arg-type]
    assert torch.equal(source_elements(X, places), X.view(-1)[places])


@pytest.mark.parametrize("rows", [1, 4, 6, 9])
@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_first_rows_keep_their_scales(quantizer: Quantizer, rows: int) -> None:
    result = quantizer.fake_quantize(X)
    part = first_rows(result, rows)
    assert torch.equal(part.values, result.values[:rows])
    assert torch.equal(part.spread_scale(), result.spread_scale()[:rows])


@pytest.mark.parametrize(("numel", "size"), [(10, 10), (10, 3), (1000, 1), (999, 500)])
def test_a_sample_is_distinct_ascending_and_spread(numel: int, size: int) -> None:
    places = sample(numel, size, torch.Generator().manual_seed(3))
    assert places.shape == (size,)
    assert len(set(places.tolist())) == size
    assert places.tolist() == sorted(places.tolist())
    assert all(i * numel / size - 1 <= p <= (i + 1) * numel / size for i, p in enumerate(places))


def test_a_sample_follows_its_seed() -> None:
    draws = [sample(10**6, 50, torch.Generator().manual_seed(s)).tolist() for s in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
