"""The C library's allocator, told to keep freed blocks.

By default glibc gives every large block back to the system, so that each call on a fresh tensor faults
all its pages in: on 4 MiB tensors that is most of the time, and whether it happens varies from call to
call. Latencies then measure the allocator.
"""

from __future__ import annotations

import ctypes
import sys

# Parameters of mallopt, from malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4

_state = "default"


def keep_freed_blocks() -> str:
    """Make glibc keep freed blocks; ``kept`` where that worked, else ``default``; idempotent."""
    global _state
    if _state == "kept" or not sys.platform.startswith("linux"):
        return _state
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl and others
        return _state
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26))
    if all(mallopt(name, value) == 1 for name, value in settings):
        _state = "kept"
    return _state


def allocator() -> str:
    """What the allocator does with freed blocks: ``kept`` or ``default``."""
    return _state
