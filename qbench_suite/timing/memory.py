"""Peak of the memory that a call allocates."""

from __future__ import annotations

from collections.abc import Callable

import torch


def peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """Largest sum of bytes that ``function()`` holds at once beyond what was held before it.

    On the CPU from the allocations that torch's profiler records, compiled kernels included; on CUDA
    from the caching allocator's statistics.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        result = function()
    del result
    held = peak = 0
    recorded = profile.profiler.kineto_results.events() if profile.profiler else []
    for event in sorted(recorded, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
