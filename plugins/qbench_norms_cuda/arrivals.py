"""Counters by which the last block of several is known: zeros before a launch, and zeros after it."""

from __future__ import annotations

import torch
from torch import Tensor

#: Counters that launches of one stream share, as they follow one another; rarely are there more.
_PER_STREAM = 1 << 16
#: Counters of a device that are set apart for launches in captured graphs.
_FOR_GRAPHS = 1 << 20

_of_stream: dict[tuple[int, int], Tensor] = {}
_of_graphs: dict[int, list[Tensor]] = {}


def arrivals(count: int, device: torch.device) -> Tensor:
    """At least ``count`` zeros (int32) for a launch in torch's current stream that leaves them zeros.

    Launches that may run at the same time have counters of their own: those of two streams, and every
    launch of a captured graph, as graphs may be replayed side by side.
    """
    if device.type != "cuda" or count > _PER_STREAM:
        return torch.zeros(count, dtype=torch.int32, device=device)
    stream = torch.cuda.current_stream(device)
    index = stream.device_index
    if torch.cuda.is_current_stream_capturing():
        return _of_graph(count, index, device)
    key = (index, stream.cuda_stream)
    if key not in _of_stream:
        _of_stream[key] = torch.zeros(_PER_STREAM, dtype=torch.int32, device=device)
        if index not in _of_graphs:
            # Made ahead: what is made during a capture belongs to the graph, and is not zeroed before.
            _of_graphs[index] = [torch.zeros(_FOR_GRAPHS, dtype=torch.int32, device=device)]
            torch.cuda.synchronize(device)
    return _of_stream[key]


def _of_graph(count: int, index: int, device: torch.device) -> Tensor:
    """Counters that no other launch gets; where there are none left, zeros made by the graph itself."""
    left = _of_graphs.get(index)
    if left is None or left[0].numel() < count:
        return torch.zeros(count, dtype=torch.int32, device=device)
    taken, left[0] = left[0][:count], left[0][count:]
    return taken
