"""One stream a device, and what becomes of it when a capture fails: on torch's CUDA calls made up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qbench_suite.timing import Cuda, burst
from qbench_suite.timing import cuda as module


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What a device would say: ``stuck`` where a capture that failed goes on."""
    found = SimpleNamespace(stuck=False, streams=[], captured=[])

    def stream(index: object) -> object:
        found.streams.append(SimpleNamespace(wait_stream=lambda _: None))
        return found.streams[-1]

    @contextmanager
    def graph(_: object, stream: object) -> Iterator[None]:
        yield
        found.captured.append(stream)

    made = SimpleNamespace(
        Stream=stream,
        CUDAGraph=lambda: SimpleNamespace(replay=lambda: None),
        graph=graph,
        stream=lambda _: nullcontext(),
        current_stream=stream,
        current_device=lambda: 0,
        synchronize=lambda _: None,
        is_current_stream_capturing=lambda: found.stuck,
    )
    monkeypatch.setattr(torch, "cuda", made)
    module._side_of.cache_clear()
    yield found
    module._side_of.cache_clear()


def fail() -> None:
    raise ValueError("odd\nmore")


def test_all_of_a_device_share_one_stream(driver: Any) -> None:
    for name in ("cuda", "cuda:0", "cuda:0"):
        Cuda(torch.device(name)).capture(lambda: None)
    assert driver.captured == [driver.streams[0]] * 3
    Cuda(torch.device("cuda:1")).capture(lambda: None)
    assert driver.captured[3] is driver.streams[1]


def test_a_capture_that_failed_and_ended_leaves_the_next(driver: Any) -> None:
    with pytest.raises(ValueError, match="odd"):
        Cuda(torch.device("cuda")).capture(fail)
    made = burst(Cuda(torch.device("cuda")), [lambda: None])
    assert (made.method, len(driver.streams)) == ("cuda_graph", 1)


def test_after_a_capture_that_never_ended_there_is_none(driver: Any) -> None:
    driver.stuck = True
    with pytest.raises(ValueError, match="odd"):
        Cuda(torch.device("cuda")).capture(fail)
    driver.stuck = False
    made = burst(Cuda(torch.device("cuda:0")), [lambda: None])
    assert made.method == "cuda_events"
    assert made.no_graph == "an earlier capture failed and never ended: odd"
    assert driver.captured == []
    assert len(driver.streams) == 2, "later work goes to another stream"
