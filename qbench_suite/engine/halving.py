"""Halving: where memory runs out, fewer images go through the models at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from qbench_suite.errors import ConversionError, QBenchError

T = TypeVar("T")
#: What the allocators of the CPU say, in place of an error of their own.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "cannot allocate memory")


class Halving:
    """How many images go through the models at once: half as many each time memory runs out.

    One serves all parts of a case, so that a part begins with what the ones before it got through
    with. Each halving is told by a ``RuntimeWarning``.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        #: The most images that may be taken; None while memory has not run out.
        self.limit: int | None = None

    def size(self, wanted: int) -> int:
        """As many of ``wanted`` images as go through at once."""
        return wanted if self.limit is None else min(wanted, self.limit)

    def run(self, wanted: int, call: Callable[[int], T], what: str) -> T:
        """What ``call`` gives for ``wanted`` images, or for fewer; begun anew where memory runs out.

        ``what``: the work, as the subject of a sentence. Raises ``ConversionError`` where memory runs
        out at one image.
        """
        while True:
            images = self.size(wanted)
            try:
                return call(images)
            except (RuntimeError, MemoryError, QBenchError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = _reason(error)
            # Out of the except block: the error holds on to the tensors that filled the memory.
            self._halve(images, what, reason)

    def over(self, count: int, wanted: int, call: Callable[[slice], T], what: str) -> Iterator[T]:
        """What ``call`` gives for each part of ``count`` images; none of them is counted twice."""
        first = 0
        while first < count:
            begin = first

            def part(images: int, begin: int = begin) -> tuple[int, T]:
                return begin + images, call(slice(begin, begin + images))

            first, found = self.run(min(wanted, count - first), part, what)
            yield found

    def _halve(self, images: int, what: str, reason: str) -> None:
        if images <= 1:
            raise ConversionError(
                f"{what} needs memory for one image at least; out of memory at one image: {reason}. "
                "Use a smaller model or image size, or another device."
            )
        self.limit = images // 2
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        message = f"memory ran out at {images} images in a batch; going on with {self.limit}"
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether ``error``, or what it was raised from, says that memory ran out."""
    return _memory_error(error) is not None


def out_of_memory(what: str, error: BaseException) -> ConversionError:
    """The error for work that cannot be done with fewer images, where memory ran out."""
    return ConversionError(
        f"A model and what is computed of it fit in memory; {what} ran out of it: {_reason(error)}. "
        "Use a smaller model or image size, or another device."
    )


def _reason(error: BaseException) -> str:
    found = _memory_error(error) or error
    return str(found).strip().partition("\n")[0].rstrip(".") or type(found).__name__


def _memory_error(error: BaseException | None) -> BaseException | None:
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return error
        said = str(error).lower()
        own = isinstance(error, QBenchError)
        if isinstance(error, RuntimeError) and not own and any(w in said for w in _OUT_OF_MEMORY):
            return error
        error = error.__cause__
    return None
