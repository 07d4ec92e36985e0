"""Lockstep: a float model and its quantized twin on the same images, and what their layers read."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qbench_suite.calibration.moments import SeenInputs
from qbench_suite.layers import LinearMap

#: Elements of the patches that are made at once: of a convolution they are many times its input.
_PIECE = 1 << 24


@dataclass(frozen=True)
class Watched:
    """A layer whose inputs are summed up: in the float model, and in the quantized one."""

    original: nn.Module
    layer: LinearMap
    #: Rows of the sample that are wanted; 0 for none.
    rows: int = 0

    def weight(self) -> Tensor:
        """The float weight as (g, out/g, in), float32."""
        return grouped(self.layer.weight_record().source.float(), self.layer.groups)


@dataclass(frozen=True)
class Images:
    """Some calibration images."""

    #: (images, …) on the device of the models.
    images: Tensor
    #: Whether they are held back, to judge by.
    held: bool
    #: How many images there are in all, of which a sample of rows takes its share.
    total: int


class _Enough(BaseException):
    """Ends a forward whose rest nobody looks at; no error, so that nothing wraps it in one."""


@torch.no_grad()
def collect(
    original: nn.Module,
    converted: nn.Module,
    watched: Mapping[str, Watched],
    batches: Iterable[Images],
    *,
    seed: int = 0,
) -> dict[str, SeenInputs]:
    """What each layer of ``watched`` reads on ``batches``, in both models; by the same names.

    The n-th call of a layer in the quantized model goes with the n-th call in the float one. A layer
    that neither model reaches has seen no patch. From the second batch on a forward ends with the last
    call of the last layer watched.
    """
    sums = _Sums(watched, torch.Generator().manual_seed(seed))
    calls: int | None = None
    for batch in batches:
        sums.batch, sums.read = batch, defaultdict(deque)
        with _shown(((name, w.original) for name, w in watched.items()), sums.keep, calls):
            _run(original, batch.images)
        with _shown(((name, w.layer) for name, w in watched.items()), sums.add, calls) as counted:
            _run(converted, batch.images)
        calls = counted.calls
    return sums.seen


def grouped(rows: Tensor, groups: int) -> Tensor:
    """Rows (out, in) as (g, out/g, in)."""
    return rows.view(groups, -1, rows.shape[1])


@dataclass
class _Count:
    calls: int = 0


@contextmanager
def _shown(modules: Iterable[tuple[str, Any]], show: Any, enough: int | None) -> Iterator[_Count]:
    """Within it ``show(name, x)`` is called before each of ``modules`` runs on x."""
    count = _Count()
    with ExitStack() as stack:
        for name, module in modules:

            def before(
                _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name
            ) -> None:
                x = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
                count.calls += 1
                show(name, x)
                if count.calls == enough:
                    raise _Enough

            handle = module.register_forward_pre_hook(before, with_kwargs=True)
            stack.callback(handle.remove)
        yield count


def _run(model: nn.Module, images: Tensor) -> None:
    with suppress(_Enough):
        model(images)


@dataclass
class _Sums:
    """The sums of a pass, and what the float model's layers read on the batch at hand."""

    watched: Mapping[str, Watched]
    generator: torch.Generator
    batch: Images = field(init=False)
    read: defaultdict[str, deque[Tensor]] = field(init=False)
    seen: dict[str, SeenInputs] = field(init=False)

    def __post_init__(self) -> None:
        self.seen = {}
        for name, watched in self.watched.items():
            weight = watched.weight()
            self.seen[name] = SeenInputs.empty(len(weight), weight.shape[2], weight.device)

    def keep(self, name: str, x: Tensor) -> None:
        """The float model's layer reads ``x``, which it may later change."""
        self.read[name].append(x.detach().clone())

    def add(self, name: str, x_hat: Tensor) -> None:
        """The quantized model's layer reads ``x_hat``."""
        if not self.read[name]:
            return
        watched, seen = self.watched[name], self.seen[name]
        x, layer, weight = self.read[name].popleft(), watched.layer, watched.weight()
        sums = seen.held if self.batch.held else seen.fit
        x_hat = layer.read(x_hat.detach())
        for part in _parts(len(x), x[:1].numel() * layer.weight[0, 0].numel()):
            quantized, float_ = layer.patches(x_hat[part]), layer.patches(x[part])
            sums.add(quantized, float_, weight)
            if watched.rows and not self.batch.held:
                share = -(-watched.rows * len(x[part]) // self._units(x))
                self._sample(seen, quantized, float_, share)

    def _units(self, x: Tensor) -> int:
        """First-axis elements of all images together, where a window or a token may be one."""
        return max(len(x) * self.batch.total // max(len(self.batch.images), 1), 1)

    def _sample(self, seen: SeenInputs, quantized: Tensor, float_: Tensor, rows: int) -> None:
        finite = (quantized.isfinite() & float_.isfinite()).all(dim=2).all(dim=0)
        drawn = torch.randperm(quantized.shape[1], generator=self.generator)[:rows]
        drawn = drawn.to(quantized.device)
        drawn = drawn[finite[drawn]]
        seen.rows.append((quantized[:, drawn].float(), float_[:, drawn].float()))


def _parts(count: int, elements: int) -> Iterator[slice]:
    """Slices of ``count`` images, of ``elements`` elements of patches each, that fit a piece."""
    step = max(_PIECE // max(elements, 1), 1)
    return (slice(first, first + step) for first in range(0, count, step))
