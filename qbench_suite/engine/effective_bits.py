"""Effective bits of a converted model: of its parameters, and of what its layers read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from qbench_suite.convert.sites import Survey
from qbench_suite.convert.swap import ConvertedModel
from qbench_suite.layers import Quantized, Role
from qbench_suite.layers.quantizing import Quantizing

#: Bits of what stays float.
FLOAT_BITS = 32.0


@dataclass
class BitSum:
    """Elements, and the bits that all of them take."""

    elements: int = 0
    bits: float = 0.0

    def add(self, tensor: Quantized) -> None:
        """Add a quantized tensor, its scales included."""
        elements = tensor.source.numel()
        self.elements += elements
        self.bits += elements * tensor.result.bits_per_value

    @property
    def mean(self) -> float | None:
        """Bits an element; None without elements."""
        return self.bits / self.elements if self.elements else None


def weight_bits_of(layer: Quantizing) -> BitSum:
    """Of the parameters that ``layer`` quantized."""
    found = BitSum()
    for tensor in _weights(layer):
        found.add(tensor)
    return found


def parameter_bits(original: nn.Module, layers: Iterable[Quantizing]) -> BitSum:
    """Of every parameter of a model: those that ``layers`` quantized packed, the others 32 bits each."""
    found, seen = BitSum(), set()
    for tensor in (tensor for layer in layers for tensor in _weights(layer)):
        # A parameter that several layers share is stored once.
        where = (tensor.source.data_ptr(), tensor.source.numel(), str(tensor.result.format.name))
        if where not in seen:
            seen.add(where)
            found.add(tensor)
    left = sum(parameter.numel() for parameter in original.parameters()) - found.elements
    return BitSum(found.elements + max(left, 0), found.bits + max(left, 0) * FLOAT_BITS)


def packed_bytes(sum: BitSum) -> int:
    """Bytes of these bits, the last one filled up."""
    return math.ceil(sum.bits / 8)


def operand_bits(model: ConvertedModel, images: Tensor) -> dict[str, float]:
    """Bits an element of what each layer quantizes of its inputs, in one forward; by site."""
    found: dict[str, BitSum] = {}
    with _watched(model.layers, found):
        model(images)
    return {name: sum.mean for name, sum in found.items() if sum.mean is not None}


def mean_operand_bits(survey: Survey, bits: Mapping[str, float]) -> float | None:
    """Mean over sites that multiply and add, weighted by that; None where none does."""
    total = sum(site.multiply_adds for site in survey.sites)
    weighted = (site.multiply_adds * bits.get(site.name, FLOAT_BITS) for site in survey.sites)
    return sum(weighted) / total if total else None


@contextmanager
def _watched(layers: Mapping[str, Quantizing], found: dict[str, BitSum]) -> Iterator[None]:
    def watch(name: str, tensor: Quantized) -> None:
        if tensor.role is Role.INPUT:
            found.setdefault(name, BitSum()).add(tensor)

    for name, layer in layers.items():
        layer.watch = lambda tensor, name=name: watch(name, tensor)
    try:
        yield
    finally:
        for layer in layers.values():
            layer.watch = None


def _weights(layer: Quantizing) -> Iterator[Quantized]:
    return (tensor for tensor in layer.quantized_tensors() if tensor.role is Role.WEIGHT)
