"""How rows are laid over blocks: by their length alone, so that a row has the same bits in any batch."""

from __future__ import annotations

from dataclasses import dataclass

#: Elements of the longest row that is held in registers: twice as many would not fit.
_HELD = 16384
_HELD_BACKWARD = 8192
#: Elements that a thread has of a block: two loads of 16 bytes in 16 bits.
_EACH = 16
#: Elements of a block where rows are shorter, and of a step where they are longer than what is held.
_BLOCK = 2048
_STEP = 4096


@dataclass(frozen=True)
class Layout:
    """A block of ``rows`` × ``columns`` elements, both powers of two, computed by ``warps`` warps."""

    rows: int
    columns: int
    warps: int
    #: Whether the block holds whole rows; else a row is gone through in steps of ``columns``.
    whole: bool


def forward_layout(width: int) -> Layout:
    """Of rows of ``width`` elements, read once, or three times where they are not held."""
    return _layout(width, _HELD)


def backward_layout(width: int) -> Layout:
    """Of rows of ``width`` elements: those of x, dy and two vectors of gradients are held in float32."""
    return _layout(width, _HELD_BACKWARD)


def _layout(width: int, held: int) -> Layout:
    columns = power_of_two(width)
    if columns > held:
        return Layout(1, _STEP, 8, whole=False)
    rows = max(1, _BLOCK // columns)
    return Layout(rows, columns, max(4, rows * columns // (32 * _EACH)), whole=True)


def power_of_two(width: int) -> int:
    """The smallest power of two that is no less than ``width``, at least 16."""
    return max(16, 1 << (width - 1).bit_length())
