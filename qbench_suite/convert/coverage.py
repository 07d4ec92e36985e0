"""Coverage: which multiply-adds of a converted model have quantized operands, found by following data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qbench_suite.convert.functions import Function, tensors_in
from qbench_suite.convert.interception import CallKey, Visitor
from qbench_suite.convert.operations import BLANK, MOVES, Operations, Storages, decomposed, products
from qbench_suite.convert.sites import Survey
from qbench_suite.convert.swap import ConvertedModel
from qbench_suite.layers.quantizing import Quantized
from qbench_suite.scaling import compiling

aten = torch.ops.aten

#: Operations whose result is values they were given, or zero.
_PICKS = frozenset(
    {aten.relu, aten.relu_, aten.max_pool2d_with_indices, aten.max_pool2d, aten.adaptive_max_pool2d}
    | {aten.index_put, aten.index_put_, aten.neg}
)
#: Operations that scale by a constant, given one.
_SCALES = frozenset({aten.mul, aten.mul_, aten.div, aten.div_})


@dataclass(frozen=True)
class SiteCoverage:
    """The multiply-adds of a site, for one image."""

    multiply_adds: int = 0
    #: Those with at least one quantized operand.
    one: int = 0
    #: Those with two.
    both: int = 0


def measure_coverage(
    converted: ConvertedModel, survey: Survey, images: Tensor
) -> dict[str, SiteCoverage]:
    """What each site of the survey that multiplies and adds has quantized of its operands.

    ``images``: (N, C, H, W); one or two are enough. The values that quantizers give are followed
    through the forward. They stay quantized where they are only moved: reshaped, permuted,
    concatenated with their like, padded with zeros, selected from, cast; and where ReLU or
    max-pooling picks among them, or a single constant scales them. The attention weights of fused
    attention are float. Multiply-adds outside of every site are listed under ``""``.
    """
    tally = _Tally({site.name for site in survey.sites})
    with ExitStack() as stack:
        for context in (compiling.eager(), decomposed(), _watched(converted, tally)):
            stack.enter_context(context)
        with Operations(tally.see):
            converted(images.clone())
    found = {site.name: SiteCoverage() for site in survey.sites if site.adds}
    for name, counts in tally.counts.items():
        found[name] = SiteCoverage(*(count // len(images) for count in counts))
    return found


@contextmanager
def _watched(converted: ConvertedModel, tally: _Tally) -> Iterator[None]:
    """Show ``tally`` the sites of ``converted`` and all that its layers quantize."""
    layers = converted.layers.values()
    before = [layer.watch for layer in layers]
    visitor, converted.interception.visitor = converted.interception.visitor, tally
    for layer in layers:
        for quantized in layer.quantized_tensors():
            live = getattr(layer, quantized.name, None)
            tally.quantized.mark(live if isinstance(live, Tensor) else quantized.result.values)
        layer.watch = tally.watch
    try:
        yield
    finally:
        converted.interception.visitor = visitor
        for layer, watch in zip(layers, before, strict=True):
            layer.watch = watch


class _Tally(Visitor):
    """Counts multiply-adds by site and number of quantized operands."""

    def __init__(self, names: set[str]) -> None:
        self.quantized = Storages()
        #: Multiply-adds of each site: in all, with a quantized operand, with two.
        self.counts: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        self._names = names
        self._active: list[str] = []

    def watch(self, quantized: Quantized) -> None:
        """A layer quantized a tensor."""
        self.quantized.mark(quantized.result.values)

    def enter(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if path in self._names:
            self._active.append(path)

    def leave(self, path: str, module: nn.Module, output: Any) -> None:
        if path in self._names:
            self._active.pop()

    def call(
        self,
        key: CallKey,
        function: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        run: Function,
    ) -> Any:
        if str(key) not in self._names:
            return run(*args, **kwargs)
        self._active.append(str(key))
        try:
            return run(*args, **kwargs)
        finally:
            self._active.pop()

    def see(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """Count an operation, and follow what it does to quantized values."""
        site = self._active[-1] if self._active else ""
        for product in products(function, args, kwargs, result):
            quantized = sum(operand in self.quantized for operand in product.operands)
            for number in range(min(quantized, 2) + 1):
                self.counts[site][number] += product.multiply_adds
        if function.is_view:
            return
        keeps = self._keeps(function.overloadpacket, args, kwargs)
        for tensor in tensors_in((result,)):
            self.quantized.mark(tensor, keeps)

    def _keeps(self, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether an operation gives quantized values, as it was given them."""
        if packet in BLANK:
            return True
        if packet in _SCALES:
            return args[0] in self.quantized and _is_constant(args[1])
        if packet is aten.copy_ and _is_whole(args[0]):
            return args[1] in self.quantized
        if packet is aten.constant_pad_nd and len(args) > 2 and args[2] != 0:
            return False
        if packet is aten.lift_fresh or packet not in MOVES | _PICKS:
            return False
        return self._all_quantized(tensors_in((args, kwargs)))

    def _all_quantized(self, tensors: Iterable[Tensor]) -> bool:
        floats = [tensor for tensor in tensors if tensor.is_floating_point()]
        return bool(floats) and all(tensor in self.quantized for tensor in floats)


def _is_constant(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.dim() == 0


def _is_whole(tensor: Tensor) -> bool:
    """Whether ``tensor`` is all that there is in its memory."""
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
