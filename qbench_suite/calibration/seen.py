"""Seen: what calibration saw of one tensor of a layer, and the static scales that follow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qbench_suite.errors import ConversionError
from qbench_suite.scaling import Axes, Observer, Quantizer, Range, Scales, fold_groups
from qbench_suite.scaling.granularity import Shape
from qbench_suite.scaling.pieces import scale_shape


class SeenTensor:
    """One tensor of a layer over all calls and batches: its observer, and how its scales lie."""

    def __init__(self, layer: str, name: str, quantizer: Quantizer) -> None:
        self._where = f"tensor {name!r} of layer {layer!r}"
        self._quantizer = quantizer
        self._observer = _observer(quantizer)
        self._shape: Shape | None = None
        self._any_finite = False

    def observe(self, x: Tensor, axes: Axes) -> None:
        """See ``x``, whose axes mean ``axes``; an empty tensor is passed over.

        Raises ``ConversionError`` where its scales lie otherwise than those of what came before.
        """
        if not x.numel():
            return
        group_shape = self._quantizer.group_shape(tuple(x.shape), axes)
        shape = scale_shape(tuple(x.shape), group_shape)
        if self._shape is not None and shape != self._shape:
            raise ConversionError(
                f"Static scales do not depend on the input; {self._where} has scales of shape "
                f"{self._shape} and then {shape} (input {tuple(x.shape)}), as mode "
                f"{self._quantizer.mode.name} keeps positions. Use tensor or channel for static "
                "activations, or dynamic scales."
            )
        self._shape = shape
        groups = fold_groups(x, group_shape)
        self._any_finite = self._any_finite or bool(groups.isfinite().any())
        self._observer.observe(groups)

    def scales(self) -> Scales | None:
        """The static scales; None where only empty tensors came.

        Raises ``ConversionError`` where no value was finite.
        """
        if self._shape is None:
            return None
        if not self._any_finite:
            raise ConversionError(
                f"A static scale covers finite values; all of {self._where} were NaN or ±Inf on every "
                "calibration image. Look for the first such layer in a run with dynamic scales, or "
                "leave the layer before it float."
            )
        return self._quantizer.scales_of(self._observer.range(), self._shape)


def _observer(quantizer: Quantizer) -> Observer:
    rule = quantizer.range_rule
    return _Extremes() if rule is None else rule.observer(quantizer)


class _Extremes(Observer):
    """The least and largest finite value so far: what a quantizer without a range rule covers."""

    def __init__(self) -> None:
        self._low: Tensor | None = None
        self._high: Tensor | None = None

    def observe(self, groups: Tensor) -> None:
        finite = groups.isfinite()
        low = torch.where(finite, groups, math.inf).amin(dim=1)
        high = torch.where(finite, groups, -math.inf).amax(dim=1)
        self._low = low if self._low is None else torch.minimum(self._low, low)
        self._high = high if self._high is None else torch.maximum(self._high, high)

    def range(self) -> Range:
        assert self._low is not None
        assert self._high is not None
        seen = self._low <= self._high
        return Range(torch.where(seen, self._low, 0.0), torch.where(seen, self._high, 0.0))
