"""CPU tensors beside a page that cannot be accessed, to find a kernel that leaves its memory."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def guarded(tensor: torch.Tensor, *, before: bool = False) -> torch.Tensor:
    """A contiguous copy whose last byte lies just before a page that cannot be accessed.

    A kernel in the emulator that reads or writes behind it, be it by one byte, raises ``KernelError``
    instead of a silent wrong answer; anything else that does ends the process. ``before``: the page is
    in front of the first byte. The copy is aligned to its elements alone, or with ``before`` to a page.

    Raises:
        NotImplementedError: the system cannot protect pages (Windows).
        OSError: it refuses to.
    """
    import torch

    if sys.platform == "win32":
        raise NotImplementedError("pages are protected by mprotect; Windows has none.")
    count = tensor.numel() * tensor.element_size()
    page = mmap.PAGESIZE
    room = (count + page - 1) // page * page
    memory = mmap.mmap(-1, room + page)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    library = ctypes.CDLL(None, use_errno=True)
    address = ctypes.c_void_p(begin if before else begin + room)
    if library.mprotect(address, ctypes.c_size_t(page), 0):
        raise OSError(ctypes.get_errno(), "mprotect failed")
    if count == 0:
        return torch.empty_like(tensor, memory_format=torch.contiguous_format)
    found = torch.frombuffer(
        memory, dtype=tensor.dtype, count=tensor.numel(), offset=page if before else room - count
    )
    return found.view(tensor.shape).copy_(tensor)
