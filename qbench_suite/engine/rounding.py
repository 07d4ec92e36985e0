"""Rounding the weights of a converted model: layers in order of execution, a few a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from qbench_suite.calibration import (
    Images,
    RoundedWeight,
    RoundingRule,
    Watched,
    apply,
    collect,
    round_layer,
)
from qbench_suite.calibration.moments import bytes_of
from qbench_suite.convert.swap import ConvertedModel
from qbench_suite.engine.batches import ImageSource
from qbench_suite.engine.halving import Halving
from qbench_suite.engine.rounding_cache import RoundingCache
from qbench_suite.formats import IntFormat
from qbench_suite.layers import LinearMap

#: One image of so many is held back, to judge the rounding by.
HELD = 8
#: Passes over the calibration images, at most unless memory asks for more: each sees the layers before
#: it rounded, and costs a part of a forward of both models.
_PASSES = 24


@dataclass(frozen=True)
class Planned:
    """A layer whose weight is to be rounded."""

    name: str
    original: nn.Module
    layer: LinearMap
    rule: RoundingRule

    @property
    def format(self) -> IntFormat:
        """The format of the weight."""
        format = self.layer.weight_record().result.format
        assert isinstance(format, IntFormat)
        return format

    def watched(self) -> Watched:
        """What a pass is to sum up."""
        return Watched(self.original, self.layer, self.rule.sample_rows(self._width()))

    def bytes(self) -> int:
        """Bytes that a pass takes for it."""
        width = self._width()
        return bytes_of(self.layer.groups, width, self.rule.sample_rows(width))

    def _width(self) -> int:
        return self.layer.weight_record().source.shape[1]


@dataclass(frozen=True)
class WeightRounding:
    """The weights of ``converted`` rounded by the rules that its assignments name.

    One pass over ``source`` for each of ``groups``: what a group reads is behind the rounded weights of
    the groups before it. One image in eight is held back and only judges. What is in ``cache`` is not
    computed again, so that a run that was killed goes on with the group it was in.
    """

    original: nn.Module
    converted: ConvertedModel
    groups: Sequence[Sequence[Planned]]
    source: ImageSource
    halving: Halving
    device: torch.device
    cache: RoundingCache
    #: Images in a batch.
    batch: int
    seed: int = 0
    #: Told how many layers are done, and how many there are.
    progress: Callable[[int, int], None] = lambda *_: None

    def run(self) -> dict[str, RoundedWeight]:
        """Round and apply every weight; what became of each, by name of its site."""
        found: dict[str, RoundedWeight] = {}
        for group in self.groups:
            done = self._known(group)
            missing = [planned for planned in group if planned.name not in done]
            if missing:
                done |= self._round(missing, len(found))
            # Not before the pass: a group that goes on after a kill sees what it would have seen.
            for planned in group:
                apply(planned.layer, done[planned.name].codes)
                found[planned.name] = done[planned.name]
        return found

    def _known(self, group: Sequence[Planned]) -> dict[str, RoundedWeight]:
        held = {
            p.name: self.cache.load(p.name, p.layer, p.format.low, p.format.high) for p in group
        }
        return {name: rounded for name, rounded in held.items() if rounded is not None}

    def _round(self, group: Sequence[Planned], done: int) -> dict[str, RoundedWeight]:
        total = sum(map(len, self.groups))
        watched = {planned.name: planned.watched() for planned in group}
        seen = self.halving.run(
            self.batch,
            lambda size: collect(
                self.original, self.converted, watched, self._images(size), seed=self.seed
            ),
            "Calibration for rounding",
        )
        found = {}
        for place, planned in enumerate(group):
            rounded = round_layer(
                planned.layer,
                planned.rule,
                seen.pop(planned.name),
                seed=self.seed,
                progress=lambda *_, count=done + place: self.progress(count, total),
            )
            self.progress(done + place + 1, total)
            self.cache.save(planned.name, rounded)
            found[planned.name] = rounded
        return found

    def _images(self, size: int) -> Iterator[Images]:
        """All calibration images: of each batch those to learn from, then those held back."""
        place = 0
        for batch in self.source.batches(size):
            places = torch.arange(place, place + len(batch.images))
            place += len(batch.images)
            back = places % HELD == HELD - 1
            for held, chosen in ((False, ~back), (True, back)):
                if bool(chosen.any()):
                    yield Images(batch.images[chosen].to(self.device), held, len(self.source))


def passes(planned: Sequence[Planned], bytes: int) -> list[list[Planned]]:
    """The layers of each pass: as few as a bounded number of passes allows, and what fits ``bytes``."""
    most = -(-len(planned) // _PASSES)
    groups: list[list[Planned]] = []
    for layer in planned:
        last = groups[-1] if groups else []
        fits = sum(p.bytes() for p in (*last, layer)) <= bytes
        if last and len(last) < most and fits:
            last.append(layer)
        else:
            groups.append([layer])
    return groups


def planned_layers(original: nn.Module, converted: ConvertedModel) -> list[Planned]:
    """The layers that a rule is assigned to, in order of execution, a shared one once."""
    found: dict[int, Planned] = {}
    for assignment in converted.assignments:
        layer = converted.layers.get(assignment.site.name)
        if assignment.rounding is not None and isinstance(layer, LinearMap):
            name = assignment.site.name
            module = original.get_submodule(name)
            found.setdefault(id(layer), Planned(name, module, layer, assignment.rounding))
    return list(found.values())
