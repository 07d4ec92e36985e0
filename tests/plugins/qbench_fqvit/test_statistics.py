"""Statistics: how calibration sees 4-bit weights, and what it keeps."""

from __future__ import annotations

import torch

from qbench_fqvit.ops import reference
from qbench_fqvit.statistics import power_of_two_weights


def test_weights_of_powers_of_two_are_those_of_the_oracle() -> None:
    """A sum of 2^30 over exponentials of all sizes."""
    total = 2**30
    generator = torch.Generator().manual_seed(0)
    exponentials = [int(2 ** (30 * float(u))) for u in torch.rand(2000, generator=generator)]
    codes = [reference.lis_code(total, e) for e in exponentials]
    expected = torch.tensor([0.0 if code == 16 else 2.0**-code for code in codes])
    found = power_of_two_weights(torch.tensor(exponentials, dtype=torch.float64) / total)
    assert set(codes) == set(range(17))
    assert torch.equal(found.float(), expected)


def test_a_weight_of_zero_stays_zero() -> None:
    assert power_of_two_weights(torch.tensor([0.0, 1.0])).tolist() == [0.0, 1.0]
