"""Rows: a quantizer applied to (groups, elements), a group a row, under scales of a given range."""

from __future__ import annotations

from torch import Tensor

from qbench_suite import Axes, Mode, PerToken, Quantizer, Range

_AXES = Axes.weight(2)


class RowQuantizer:
    """The format and the scale rule of ``quantizer``, on rows."""

    def __init__(self, quantizer: Quantizer) -> None:
        mode = Mode(name="rows", granularity=PerToken(), rule=quantizer.mode.rule)
        self._quantizer = Quantizer(quantizer.format, mode, quantizer.seed)

    def __call__(self, values: Tensor, range: Range) -> Tensor:
        """``values`` (groups, elements) fake-quantized; what lies beyond ``range`` saturates."""
        scales = self._quantizer.scales_of(range, (values.shape[0], 1))
        return self._quantizer.fake_quantize(values, _AXES, scales=scales).values


def shrunk(range: Range, factor: float | Tensor) -> Range:
    """Both ends of ``range`` times ``factor``."""
    return Range(range.low * factor, range.high * factor)
