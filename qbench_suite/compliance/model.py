"""Compliance of a whole model: its weights as they are, its activations while they are quantized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from qbench_suite.compliance.grid import Compliance, Violation, check_grid
from qbench_suite.compliance.leaving import Leaving
from qbench_suite.compliance.live import KEPT_ROLES, live_weights
from qbench_suite.compliance.part import elements, first_rows, sample, source_elements
from qbench_suite.compliance.rules import ComplianceRules
from qbench_suite.compliance.screen import passes
from qbench_suite.layers import Quantized, Quantizing, Role
from qbench_suite.scaling import FakeQuantized

#: A tensor of a model: layer, role, name within the layer.
_Place = tuple[str, Role, str]
_Watch = Callable[[Quantized], None]


@dataclass(frozen=True)
class Failure:
    """A value that claims to be quantized and is not on the grid."""

    layer: str
    role: Role
    #: Name of the tensor within the layer.
    tensor: str
    #: Index of the element, in the layout in which the tensor is quantized.
    index: tuple[int, ...]
    value: float
    #: The largest legal value not above it; None where there is none.
    below: float | None
    #: The smallest legal value not below it; None where there is none.
    above: float | None
    #: The scale of its group.
    scale: float
    format: str
    mode: str
    #: Which batch it was found in, from 0; None for weights and statistics.
    batch_index: int | None


@dataclass
class TensorVerdict:
    """The verdict on one tensor of one layer, over all times it was checked."""

    layer: str
    role: Role
    tensor: str
    #: Times it was checked: once for a weight, once a batch or more for an activation.
    times: int = 0
    #: Values looked at.
    checked: int = 0
    #: Values off the grid.
    violations: int = 0


@dataclass
class SiteVerdict:
    """The verdict on one layer."""

    checked: int = 0
    violations: int = 0


@dataclass
class ModelCompliance:
    """The grid rule over a whole model: what is checked, and what was found.

    Weights are checked as the layers hold them at the time; activations as they are quantized, within
    ``watching``, so that nothing is stored. NaN is legal where the tensor before quantization had it.
    """

    rules: ComplianceRules
    #: Images whose activations were looked at.
    images: int = 0
    #: Examples of values off the grid, as many as the rules keep.
    violations: list[Failure] = field(default_factory=list)
    _verdicts: dict[_Place, TensorVerdict] = field(default_factory=dict)
    _batches: int = 0

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(self.rules.limits.seed)

    @property
    def verdicts(self) -> list[TensorVerdict]:
        """A verdict on every tensor checked, in the order in which they were first seen."""
        return list(self._verdicts.values())

    @property
    def sites(self) -> dict[str, SiteVerdict]:
        """A verdict on every layer of which something was checked."""
        found: dict[str, SiteVerdict] = {}
        for verdict in self._verdicts.values():
            site = found.setdefault(verdict.layer, SiteVerdict())
            site.checked += verdict.checked
            site.violations += verdict.violations
        return found

    @property
    def tensors(self) -> dict[Role, int]:
        """Number of tensors of each role that were checked, however often."""
        return dict(Counter(verdict.role for verdict in self._verdicts.values()))

    @property
    def checked(self) -> int:
        """Values looked at."""
        return sum(verdict.checked for verdict in self._verdicts.values())

    @property
    def violation_count(self) -> int:
        """Values off the grid."""
        return sum(verdict.violations for verdict in self._verdicts.values())

    @property
    def compliant(self) -> bool | None:
        """Whether no value is off the grid; None where no value was looked at."""
        return not self.violation_count if self.checked else None

    @property
    def wants_images(self) -> bool:
        """Whether the rules ask for activations of more images."""
        limit = self.rules.limits.images
        return limit is None or self.images < limit

    def check_weights(self, layers: Mapping[str, Quantizing]) -> None:
        """Check the weights and statistics that each layer holds now, by its name.

        Raises ``PolicyError`` where the rules choose none of the layers.
        """
        for name, layer in self._chosen(layers).items():
            for record in live_weights(layer):
                self._check(name, record, None, None)

    @contextmanager
    def watching(
        self, layers: Mapping[str, Quantizing], images: int | None = None
    ) -> Iterator[None]:
        """Within it, everything that the layers quantize is checked: one batch.

        What a layer gives is checked as it leaves it, after the hooks on it, see ``Leaving``.

        ``images``: how many images the batch holds. The rules' limit then counts them; where fewer are
        still to be checked, so much of each tensor whose first axis counts images (or a multiple, as
        windows), and nothing once the limit is reached. Without it all is checked. Raises
        ``PolicyError`` where the rules choose none of the layers.
        """
        left = self._left(images)
        chosen = {} if left == 0 else self._chosen(layers)
        before = {name: layer.watch for name, layer in chosen.items()}
        try:
            with ExitStack() as attached:
                for name, layer in chosen.items():
                    leaving = Leaving(layer, self._checker(name, images, left))
                    attached.enter_context(leaving.attached())
                    layer.watch = _both(leaving.take, before[name])
                yield
        finally:
            for name, layer in chosen.items():
                layer.watch = before[name]
            self._batches += 1
            self.images += left or 0

    def _left(self, images: int | None) -> int | None:
        """How many images of a batch to check; None for the whole batch, of unknown size."""
        limit = self.rules.limits.images
        if images is None or limit is None:
            return images
        return max(min(images, limit - self.images), 0)

    def _chosen(self, layers: Mapping[str, Quantizing]) -> dict[str, Quantizing]:
        names = self.rules.select(layers)
        # A shared layer goes by several names, and is checked under the first.
        chosen: dict[int, tuple[str, Quantizing]] = {}
        for name, layer in layers.items():
            if name in names:
                chosen.setdefault(id(layer), (name, layer))
        return dict(chosen.values())

    def _checker(self, layer: str, images: int | None, left: int | None) -> _Watch:
        def check(record: Quantized) -> None:
            kept = record.role in KEPT_ROLES
            rows = None
            length = record.result.values.shape[0] if record.result.values.dim() else 0
            if not kept and images and left is not None and left < images and not length % images:
                rows = length // images * left
            self._check(layer, record, rows, None if kept else self._batches)

        return check

    def _check(
        self, layer: str, record: Quantized, rows: int | None, batch_index: int | None
    ) -> None:
        """Check one tensor, or its first ``rows``."""
        if record.role not in self.rules.roles:
            return
        place = (layer, record.role, record.name)
        verdict = self._verdicts.setdefault(place, TensorVerdict(*place))
        verdict.times += 1
        found = self._verdict(record if rows is None else _first_rows(record, rows))
        verdict.checked += found.checked
        verdict.violations += found.violations
        room = self.rules.limits.failures.total - len(self.violations)
        for violation in found.examples[: max(room, 0)]:
            self.violations.append(_failure(place, violation, record.result, batch_index))

    def _verdict(self, record: Quantized) -> Compliance:
        """The grid rule on a tensor, or on the elements of it that the rules draw."""
        size = self.rules.limits.elements_per_tensor
        numel = record.result.values.numel()
        if size is None or numel <= size:
            return self._exact(record.result, record.source)
        places = sample(numel, size, self._generator)
        drawn = elements(record.result, places)
        found = self._exact(drawn, source_elements(record.source, places))
        index_of = [_unravel(int(places[v.index[0]]), record.result) for v in found.examples]
        pairs = zip(found.examples, index_of, strict=True)
        return replace(found, examples=tuple(replace(v, index=index) for v, index in pairs))

    def _exact(self, result: FakeQuantized, source: Tensor) -> Compliance:
        if passes(result):
            return Compliance(result.values.numel(), 0)
        examples = self.rules.limits.failures.per_tensor
        return check_grid(result, source, examples=examples, ulps=self.rules.ulps)


def _both(first: _Watch, second: _Watch | None) -> _Watch:
    def watch(record: Quantized) -> None:
        first(record)
        if second is not None:
            second(record)

    return watch


def _first_rows(record: Quantized, rows: int) -> Quantized:
    result = first_rows(record.result, rows)
    return replace(record, result=result, source=record.source[: result.values.shape[0]])


def _unravel(place: int, result: FakeQuantized) -> tuple[int, ...]:
    index = torch.unravel_index(torch.tensor(place), result.values.shape)
    return tuple(int(i) for i in index)


def _failure(
    place: _Place, violation: Violation, result: FakeQuantized, batch_index: int | None
) -> Failure:
    return Failure(
        *place,
        index=violation.index,
        value=violation.value,
        below=violation.below,
        above=violation.above,
        scale=violation.scale,
        format=result.format.name,
        mode=result.mode.name,
        batch_index=batch_index,
    )
