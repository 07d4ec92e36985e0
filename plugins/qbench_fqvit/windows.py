"""Windows: a map cut into windows that attend by themselves, optionally shifted (Swin)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Windows:
    """Windows of ``height`` × ``width`` tokens over a map that is first rolled by the shift.

    Only moves elements, of any dtype; a map that no whole number of windows covers is padded with 0.
    ``rows`` and ``columns``: of the only map that the windows are meant for; 0 for any.
    """

    height: int
    width: int
    shift_down: int = 0
    shift_right: int = 0
    rows: int = 0
    columns: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of one window."""
        return self.height * self.width

    def padded(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of a map once whole windows cover it."""
        return rows + -rows % self.height, columns + -columns % self.width

    def partition(self, x: Tensor) -> Tensor:
        """(B, rows, columns, C) → (B · windows, tokens, C), windows row by row."""
        batch, rows, columns, channels = x.shape
        if self.shift_down or self.shift_right:
            x = torch.roll(x, (-self.shift_down, -self.shift_right), (1, 2))
        down, right = self.padded(rows, columns)
        if (down, right) != (rows, columns):
            x = F.pad(x, (0, 0, 0, right - columns, 0, down - rows))
        high, wide = down // self.height, right // self.width
        x = x.reshape(batch, high, self.height, wide, self.width, channels)
        return x.transpose(2, 3).reshape(batch * high * wide, self.tokens, channels)

    def reverse(self, windows: Tensor, rows: int, columns: int) -> Tensor:
        """(B · windows, tokens, C) → (B, rows, columns, C)."""
        down, right = self.padded(rows, columns)
        high, wide = down // self.height, right // self.width
        x = windows.reshape(-1, high, wide, self.height, self.width, windows.shape[-1])
        x = x.transpose(2, 3).reshape(-1, down, right, windows.shape[-1])
        x = x[:, :rows, :columns].contiguous()
        if self.shift_down or self.shift_right:
            x = torch.roll(x, (self.shift_down, self.shift_right), (1, 2))
        return x
