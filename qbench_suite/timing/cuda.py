"""What timing asks of a CUDA device: a stream, graphs, events, and facts about its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch


@dataclass
class _Side:
    """The stream beside the default one, and why it captures no more graphs; empty while it does."""

    stream: torch.cuda.Stream
    refusal: str = ""


@cache
def _side_of(index: int) -> _Side:
    return _Side(_made(torch.cuda.Stream, index))


class Cuda:
    """A CUDA device as timers see it; ``device`` as torch names it. All of a device share one stream."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        index = torch.cuda.current_device() if device.index is None else device.index
        self._side = _side_of(index)

    @property
    def l2_bytes(self) -> int:
        """Bytes of the second-level cache."""
        return int(torch.cuda.get_device_properties(self.device).L2_cache_size)

    @property
    def peak_gb_per_s(self) -> float | None:
        """Bandwidth of its memory at most: 2 transfers a clock · bus width; None where it does not tell."""
        found = torch.cuda.get_device_properties(self.device)
        kilohertz = getattr(found, "memory_clock_rate", 0)
        bits = getattr(found, "memory_bus_width", 0)
        return 2 * kilohertz * bits / 8 * 1e-6 or None

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Work inside goes to a stream of its own, after all that was launched before.

        Graphs are captured from no default stream, and a backward runs on the stream of its forward:
        what is to be captured is prepared in here too.
        """
        outer = torch.cuda.current_stream(self.device)
        side = self._side.stream
        side.wait_stream(outer)
        with torch.cuda.stream(side):
            yield
        outer.wait_stream(side)

    def capture(self, work: Callable[[], object]) -> Callable[[], object]:
        """The launches of ``work`` as one graph: call it to launch them; inside ``stream`` only.

        Raises ``RuntimeError`` where ``work`` does what a graph cannot hold, and what ``work`` raises.
        Where torch leaves the capture under way then, nothing is captured on the device any more, and
        later work goes to another stream.
        """
        if self._side.refusal:
            raise RuntimeError(self._side.refusal)
        graph = torch.cuda.CUDAGraph()
        self.synchronize()
        try:
            with torch.cuda.graph(graph, stream=self._side.stream):
                work()
        except Exception as error:
            with torch.cuda.stream(self._side.stream):
                stuck = torch.cuda.is_current_stream_capturing()
            if stuck:
                self._side.refusal = (
                    f"an earlier capture failed and never ended: {first_line(error)}"
                )
                self._side.stream = _made(torch.cuda.Stream, self.device)
            raise
        replay: Callable[[], object] = graph.replay
        return replay

    def seconds(self, work: Callable[[], object]) -> float:
        """Device time of ``work``, by events; it runs once before.

        While that first run keeps the device busy the host gets ahead, so that the time between the
        events is not the host's.
        """
        start, end = (_made(torch.cuda.Event, enable_timing=True) for _ in range(2))
        work()
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3

    def synchronize(self) -> None:
        """Wait until the device has done all it was given."""
        torch.cuda.synchronize(self.device)


def first_line(error: BaseException) -> str:
    """What ``error`` says, to the end of its first line; its class where it says nothing."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _made(kind: Any, *arguments: Any, **named: Any) -> Any:
    """An object of a class of torch's that has no annotations."""
    return kind(*arguments, **named)
