"""Layout: the sizes and plain integers of an integer block, from which an empty one is built."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

import torch
from torch import Tensor

from qbench_fqvit.ops import tables
from qbench_fqvit.ops.checks import MAX_INPUTS
from qbench_fqvit.windows import Windows
from qbench_suite import ConversionError

#: Shifts that a requantization may have.
SHIFTS = (1, 62)
_INT32 = 2**31 - 1
#: Least and largest value of fields.
_RANGES = {
    **dict.fromkeys(("channels", "heads", "head_dim", "hidden"), (1, MAX_INPUTS)),
    "softmax_code": (0, len(tables.CODES) - 1),
    "score_shift": SHIFTS,
    "max_tokens": (1, _INT32),
    **dict.fromkeys(("fc1_zero_point", "act_zero_point"), (-128, 127)),
    **dict.fromkeys(("bias_windows", "bias_tokens"), (0, _INT32)),
    **dict.fromkeys(("window_height", "window_width", "map_rows", "map_columns"), (0, _INT32)),
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Integers only, so that a state dict can hold it as one tensor.

    Raises ``ConversionError`` for integers that no block has.
    """

    channels: int
    heads: int
    head_dim: int
    #: Channels between fc1 and fc2.
    hidden: int
    #: Place in ``tables.CODES`` of the code of attention weights.
    softmax_code: int
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
    #: Of the map that the masks of the windows belong to; 0 for any map.
    map_rows: int = 0
    map_columns: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            _expect(low <= value <= high, f"{name} within {low} … {high}", str(value))
        _expect(self.residual_bits in (8, 16), "8 or 16 residual_bits", str(self.residual_bits))
        inner = f"{self.heads} heads of {self.head_dim}"
        _expect(self.inner <= MAX_INPUTS, f"at most {MAX_INPUTS} channels of all heads", inner)
        _expect(self.max_exponent >= 0, "sums of norms within 64 bits", f"{self.channels} channels")
        self._check_windows()
        self._check_bias()

    def _check_windows(self) -> None:
        height, width = self.window_height, self.window_width
        down, right = self.shift_down, self.shift_right
        _expect(
            0 <= down < max(height, 1)
            and 0 <= right < max(width, 1)
            and bool(height) == bool(width)
            and height * width <= self.max_tokens,
            f"windows of at most {self.max_tokens} tokens, shifted by less than their size",
            f"{height} × {width} shifted by {down}, {right}",
        )
        rows, columns = self.map_rows, self.map_columns
        _expect(bool(rows) == bool(columns), "a map of rows and columns", f"{rows} × {columns}")

    def _check_bias(self) -> None:
        count, tokens = self.bias_windows, self.bias_tokens
        windows, expected = self._windows, 1
        if self.map_rows and windows.tokens:
            high, wide = windows.padded(self.map_rows, self.map_columns)
            expected = high * wide // windows.tokens
        fits = tokens == windows.tokens if windows.tokens else 0 < tokens <= self.max_tokens
        size = count * self.heads * tokens**2
        _expect(
            (fits and count == expected and size <= _INT32)
            if count
            else not (tokens or self.map_rows),
            f"a bias of scores for each of {expected} windows, of below 2³¹ entries",
            f"{count} of {tokens} tokens",
        )

    @property
    def inner(self) -> int:
        """Channels of all heads."""
        return self.heads * self.head_dim

    @property
    def softmax(self) -> str:
        """The code of attention weights."""
        return tables.CODES[self.softmax_code]

    @property
    def windows(self) -> Windows | None:
        """How a map is cut before attention."""
        return self._windows if self.window_height else None

    @property
    def _windows(self) -> Windows:
        return Windows(
            self.window_height,
            self.window_width,
            self.shift_down,
            self.shift_right,
            self.map_rows,
            self.map_columns,
        )

    @property
    def max_exponent(self) -> int:
        """The largest exponent of a channel with which the sums of a norm fit 64 bits.

        The largest e with ``channels · 2^(residual_bits − 1 + e) ≤ 2³¹``.
        """
        return (2**31 // self.channels).bit_length() - self.residual_bits

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
        if not isinstance(values, Tensor):
            raise ConversionError(
                f"A layout is a tensor; got {type(values).__name__}. Load a state dict as it was saved."
            )
        if values.dtype != torch.int64 or values.shape != (len(names),):
            raise ConversionError(
                f"A layout is {len(names)} int64 values; got {values.dtype} of shape "
                f"{tuple(values.shape)}. Load a state dict of this version of qbench_fqvit."
            )
        return cls(**dict(zip(names, values.tolist(), strict=True)))


def _expect(holds: bool, invariant: str, received: str) -> None:
    if not holds:
        raise ConversionError(
            f"The layout of an integer block has {invariant}; got {received}. Load a state dict of "
            "this version of qbench_fqvit as it was saved, or leave such a block float."
        )
