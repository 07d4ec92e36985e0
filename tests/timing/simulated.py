"""A CUDA device made up: what bursts ask of one, without one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch

from qbench_suite.timing import Cuda


class Simulated:
    """A device that takes as long for a launch as the launch says; a graph holds what was launched."""

    device = torch.device("cpu")
    l2_bytes = 4 << 20
    peak_gb_per_s = None

    def __init__(self, *, refuses: bool | Exception = False) -> None:
        self.now = 0.0
        self.launched: list[object] = []
        self._refuses = refuses
        self._graph: list[tuple[object, float]] | None = None

    def launch(self, what: object, seconds: float) -> object:
        if self._graph is not None:
            self._graph.append((what, seconds))
        else:
            self._run([(what, seconds)])
        return object()

    def stream(self) -> AbstractContextManager[None]:
        return nullcontext()

    def capture(self, work: Callable[[], object]) -> Callable[[], object]:
        if isinstance(self._refuses, Exception):
            raise self._refuses
        if self._refuses:
            raise RuntimeError("operation not permitted when stream is capturing")
        graph: list[tuple[object, float]] = []
        self._graph = graph
        try:
            work()
        finally:
            self._graph = None
        return lambda: self._run(graph)

    def seconds(self, work: Callable[[], object]) -> float:
        work()
        start = self.now
        work()
        return self.now - start

    def synchronize(self) -> None:
        """Nothing is pending."""

    def _run(self, launches: list[tuple[object, float]]) -> None:
        self.launched += [what for what, _ in launches]
        self.now += sum(seconds for _, seconds in launches)

    def thunks(self, seconds: list[float]) -> list[Callable[[], object]]:
        """A call for each set of inputs, with how long it takes on that."""
        return [functools.partial(self.launch, n, s) for n, s in enumerate(seconds)]

    @property
    def cuda(self) -> Cuda:
        return cast(Any, self)
