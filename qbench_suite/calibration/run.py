"""Calibration run: shows the layers a few batches, and fixes the scales of their activations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from qbench_suite.calibration.seen import SeenTensor
from qbench_suite.errors import ConversionError
from qbench_suite.layers import Quantizing, Role
from qbench_suite.layers.quantizing import Observe
from qbench_suite.scaling import Axes, Quantizer, Scales

#: Roles that are quantized once, when the layer is made.
_FIXED = frozenset({Role.WEIGHT, Role.STATISTICS})
#: What was seen of each tensor of one layer, by name.
_Tensors = dict[str, SeenTensor]


@torch.no_grad()
def calibrate(
    layers: Mapping[str, Quantizing],
    run: Callable[[Tensor], object],
    batches: Iterable[Tensor],
) -> int:
    """Give each layer static scales for its activations; the number of images seen.

    ``layers``: by name; ``run``: one forward of the model that holds them; ``batches``: images, batch
    first, of any batch sizes; an empty batch is passed over. Float activations flow while the range
    rule of each quantizer observes them (weights are quantized already); without a range rule a scale
    covers the absolute maximum. A tensor that is quantized several times in a forward under one name
    has one scale for all of them. A layer that was never reached keeps dynamic scales, and a warning
    names it. Former static scales are replaced; after an exception they stay.

    Raises ``ConversionError`` where no image came, where the scales of a tensor would depend on the
    input's shape, and where a tensor held no finite value.
    """
    # A shared layer goes by several names, and is shown its tensors once.
    distinct = {id(layer): (name, layer) for name, layer in layers.items()}
    named = [(name, layer) for name, layer in distinct.values() if layer.quantizers]
    tensors: list[_Tensors] = [{} for _ in named]
    images = 0
    try:
        for (name, layer), seen in zip(named, tensors, strict=True):
            layer.observe = _observe(name, seen)
        for batch in batches:
            if batch.shape[0]:
                run(batch)
                images += batch.shape[0]
    finally:
        for _, layer in named:
            layer.observe = None
    if not images:
        raise ConversionError(
            "Static scales come from at least one image; calibration got none. Set calibration.images "
            "to 1 or more, and look whether the dataset is empty."
        )
    _fix(named, tensors)
    return images


def _observe(layer: str, tensors: _Tensors) -> Observe:
    def observe(name: str, x: Tensor, axes: Axes, quantizer: Quantizer) -> None:
        if name not in tensors:
            tensors[name] = SeenTensor(layer, name, quantizer)
        tensors[name].observe(x, axes)

    return observe


def _fix(named: list[tuple[str, Quantizing]], tensors: list[_Tensors]) -> None:
    """Set the static scales of every layer, after those of all could be made."""
    fixed: list[dict[str, Scales]] = []
    for seen in tensors:
        scales = {name: tensor.scales() for name, tensor in seen.items()}
        fixed.append({name: scale for name, scale in scales.items() if scale is not None})
    unseen = []
    for (name, layer), scales_of_layer in zip(named, fixed, strict=True):
        layer.static_scales = scales_of_layer
        if not scales_of_layer and _expects_tensors(layer):
            unseen.append(name)
    if unseen:
        warnings.warn(
            f"Calibration saw no tensor of {', '.join(unseen)}: these layers keep dynamic scales.",
            RuntimeWarning,
            stacklevel=3,
        )


def _expects_tensors(layer: Quantizing) -> bool:
    """Whether a forward of ``layer`` quantizes anything."""
    return any(role not in _FIXED for role in layer.quantizers)
