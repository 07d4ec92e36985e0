"""Layout: the sizes and plain integers of an integer block, from which an empty one is built."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

import torch
from torch import Tensor

from qbench_fqvit.windows import Windows
from qbench_suite import ConversionError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Integers only, so that a state dict can hold it as one tensor."""

    channels: int
    heads: int
    head_dim: int
    #: Channels between fc1 and fc2.
    hidden: int
    softmax_bits: int
    residual_bits: int
    #: Shift of the requantization of scores.
    score_shift: int
    #: Tokens that may attend to each other before the sum of a row could pass 31 bits.
    max_tokens: int
    #: Zero points of what enters the activation, and of what leaves it.
    fc1_zero_point: int
    act_zero_point: int
    #: Of the bias of scores; 0 for none.
    bias_windows: int = 0
    bias_tokens: int = 0
    #: Of attention windows; 0 for none.
    window_height: int = 0
    window_width: int = 0
    shift_down: int = 0
    shift_right: int = 0

    @property
    def inner(self) -> int:
        """Channels of all heads."""
        return self.heads * self.head_dim

    @property
    def windows(self) -> Windows | None:
        """How a map is cut before attention."""
        if not self.window_height:
            return None
        return Windows(self.window_height, self.window_width, self.shift_down, self.shift_right)

    @property
    def bias_shape(self) -> tuple[int, ...] | None:
        """(windows, heads, tokens, tokens) of the bias of scores; None where there is none."""
        if not self.bias_windows:
            return None
        return (self.bias_windows, self.heads, self.bias_tokens, self.bias_tokens)

    def to_tensor(self) -> Tensor:
        """Every field in order, int64."""
        return torch.tensor(astuple(self), dtype=torch.int64)

    @classmethod
    def from_tensor(cls, values: Tensor) -> Layout:
        """The layout that ``to_tensor`` wrote; raises ``ConversionError`` for anything else."""
        names = [field.name for field in fields(cls)]
        if values.dtype != torch.int64 or values.shape != (len(names),):
            raise ConversionError(
                f"A layout is {len(names)} int64 values; got {values.dtype} of shape "
                f"{tuple(values.shape)}. Load a state dict of this version of qbench_fqvit."
            )
        return cls(**dict(zip(names, values.tolist(), strict=True)))
