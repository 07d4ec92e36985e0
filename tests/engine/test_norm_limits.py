"""Speeds that no norm kernel can have, cold and in a cache."""

from __future__ import annotations

from typing import Any

import pytest

from qbench_suite.engine.norm_limits import too_fast
from qbench_suite.results import NormRow

COLD: dict[str, Any] = {
    "method": "cuda_graph", "cache": "cold", "bytes_moved": 10**6, "gb_per_s": 2000.0,
    "copy_gb_per_s": 3000.0, "copy_max_gb_per_s": 3000.0, "peak_gb_per_s": 3350.0,
    "warm_copy_gb_per_s": 5000.0, "warm_latency_ms": 1e-4,
}  # fmt: skip
WARM = COLD | {"cache": "warm"}
HOST = {
    "method": "wall_clock", "cache": "warm", "bytes_moved": 10**6, "gb_per_s": 30.0,
    "copy_gb_per_s": 20.0, "copy_max_gb_per_s": 25.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (COLD, ""),
        (COLD | {"gb_per_s": 3300.0}, ""),
        (COLD | {"gb_per_s": 3400.0}, "the peak of the device's memory, 3350 GB/s; 3400 GB/s"),
        (COLD | {"copy_gb_per_s": 3400.0}, "memory (this is the copy), 3350 GB/s; 3400 GB/s"),
        (COLD | {"gb_per_s": None}, ""),
        (COLD | {"gb_per_s": 3100.0, "peak_gb_per_s": None}, ""),
        (COLD | {"gb_per_s": 3200.0, "peak_gb_per_s": None}, "1.05 times a copy of as many bytes, 3150"),
        # 10⁶ bytes in 25 ns are 40,000 GB/s: eight times the copy.
        (COLD | {"warm_latency_ms": 26e-6}, ""),
        (COLD | {"warm_latency_ms": 24e-6}, "8 times a copy of as many bytes in a cache, 40000 GB/s"),
        (WARM | {"gb_per_s": 39000.0, "copy_gb_per_s": 4000.0}, ""),
        (WARM | {"gb_per_s": 41000.0}, "40000 GB/s; 41000 GB/s"),
        (HOST | {"gb_per_s": 199.0}, ""),
        (HOST | {"gb_per_s": 201.0}, "200 GB/s; 201 GB/s"),
        # A copy of 8 µs tells the time of a call.
        (HOST | {"gb_per_s": 9999.0, "bytes_moved": 200_000}, ""),
    ],
)  # fmt: skip
def test_no_speed_beyond_what_can_be_passes(facts: dict[str, Any], words: str) -> None:
    reason = too_fast(NormRow(**facts))
    assert words in reason
    assert bool(words) == bool(reason)
