"""The constants of the codes of weights against their definitions."""

from __future__ import annotations

from decimal import Decimal, getcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbench_fqvit.ops import reference, tables

getcontext().prec = 60


def log2(value: int) -> Decimal:
    return Decimal(value).ln() / Decimal(2).ln()


@given(st.one_of(st.integers(1, 2**62 - 1), st.integers(1, 5000)))
def test_lg(value: int) -> None:
    rounded = int((16 * log2(value)).to_integral_value())
    assert tables.lg(value) == reference.lg(value) == rounded


def test_lg_steps_up_at_its_thresholds() -> None:
    for j, threshold in enumerate(tables.lg_thresholds()):
        assert 16 * 62 + j + 1 == tables.lg(threshold)
        assert 16 * 62 + j == tables.lg(threshold - 1)


@pytest.mark.parametrize(("code", "step"), [("lis4", 1), ("log8", 16)])
def test_weights_of_log_codes(code: str, step: int) -> None:
    weights = tables.code_weights(code)
    assert weights == [reference.code_weight(byte, code) for byte in range(256)]
    zero = tables.ZERO_CODE[code]
    for byte in range(zero):
        exact = Decimal(2) ** (15 - Decimal(byte) / step)
        assert abs(weights[byte] - exact) <= Decimal("0.5")
    assert not any(weights[zero:])


def test_weights_of_uniform_codes() -> None:
    weights = tables.code_weights("uniform8")
    assert weights == [reference.code_weight(byte, "uniform8") for byte in range(256)]
    assert weights == [2**15 * byte / 256 for byte in range(256)]
    assert weights[tables.ZERO_CODE["uniform8"]] == 0


@given(st.integers(1, 2**32), st.integers(1, 2**22))
def test_lis_factors_count_the_code(total: int, exponential: int) -> None:
    total = max(total, exponential)
    steps = sum(2 * total >= factor * exponential for factor in tables.lis_factors())
    assert steps == reference.lis_code(total, exponential)


def test_lis_codes_by_hand() -> None:
    # v = 1, 2, 3, 4, 5, 6: codes step at 2, 3 = 1.5 · 2 and 6 = 1.5 · 4.
    assert [reference.lis_code(v, 1) for v in range(1, 7)] == [0, 1, 2, 2, 2, 3]
    assert reference.lis_code(5, 2) == 2
    assert reference.lis_code(3 * 2**14 - 1, 1) == 15
    assert reference.lis_code(3 * 2**14, 1) == 16
