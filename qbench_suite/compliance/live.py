"""Live weights: what a layer computes with now, laid out as it was when it was quantized."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from qbench_suite.layers import Quantized, Quantizing, Role
from qbench_suite.scaling import Quantizer

#: Roles that are quantized once and kept.
KEPT_ROLES = frozenset({Role.WEIGHT, Role.STATISTICS})


def live_weights(layer: Quantizing) -> Iterator[Quantized]:
    """The quantized weights and statistics of ``layer``, with the values that it holds at present.

    The values are those of the attribute that has the tensor's name (dots lead into children); as
    recorded where there is none of as many elements. Scales follow them to their device.
    """
    for record in layer.quantized_tensors():
        if record.role in KEPT_ROLES:
            live = _attribute(layer, record.name)
            recorded = record.result.values
            if live is None or live.numel() != recorded.numel():
                yield record
            else:
                yield _with_values(record, _as_quantized(layer, record, live.detach()))


def _attribute(layer: Quantizing, dotted: str) -> Tensor | None:
    found: object = layer
    for name in dotted.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, Tensor) else None


def _as_quantized(layer: Quantizing, record: Quantized, live: Tensor) -> Tensor:
    """``live`` in the shape in which the layer quantizes it.

    A layer may lay a weight out in its own way before (a convolution as rows of all that an output
    sums over). What it makes of ``live`` is seen by having a copy of it quantize that.
    """
    shape = record.result.values.shape
    if live.shape == shape:
        return live
    probe = copy.copy(layer)
    plain = Quantizer(record.result.format, record.result.mode)
    probe.set_up({record.role: plain}, layer.feature_axis)
    probe.quantize_weight(record.name, live, role=record.role)
    (seen,) = probe.quantized_tensors()
    return seen.source.reshape(shape)


def _with_values(record: Quantized, values: Tensor) -> Quantized:
    result, device = record.result, values.device
    zero_point = result.zero_point
    moved = replace(
        result,
        values=values,
        scale=result.scale.to(device),
        zero_point=None if zero_point is None else zero_point.to(device),
    )
    return replace(record, source=record.source.to(device), result=moved)
