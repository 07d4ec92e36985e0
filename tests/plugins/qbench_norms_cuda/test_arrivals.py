"""Counters of last-arriving blocks."""

from __future__ import annotations

import pytest
import torch

from qbench_norms_cuda.arrivals import arrivals


@pytest.mark.parametrize("count", [1, 100_000])
def test_counters_are_zeros(count: int, device: torch.device) -> None:
    counters = arrivals(count, device)
    assert counters.numel() >= count
    assert counters.dtype == torch.int32
    assert not counters.any()


def test_launches_of_one_stream_share_counters_and_graphs_do_not() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU: no streams")
    device = torch.device("cuda")
    assert arrivals(3, device).data_ptr() == arrivals(5, device).data_ptr()
    with torch.cuda.stream(torch.cuda.Stream()):
        other = arrivals(3, device)
    assert other.data_ptr() != arrivals(3, device).data_ptr()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        first, second = arrivals(3, device), arrivals(5, device)
    assert second.data_ptr() >= first.data_ptr() + 12
    assert not first.any()
