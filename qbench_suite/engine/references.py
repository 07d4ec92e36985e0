"""ReferenceStore: what each layer of a float model reads and gives, captured once a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qbench_suite.engine.cache import ByteCache
from qbench_suite.engine.pool import LoadedModel
from qbench_suite.errors import ModelError
from qbench_suite.metrics import RangeMetrics, range_metrics


@dataclass(frozen=True)
class Reference:
    """One call of a float layer."""

    #: Positional arguments, tensors copied before the layer could change them.
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    #: What the layer returned.
    output: Tensor
    #: Range of the first tensor among ``args``.
    input_range: RangeMetrics


class ReferenceStore:
    """References by (model, layer), bounded in bytes; ``passes`` counts forwards of each model.

    A forward captures the layer asked for and as many after it as fit half the bound: cases come
    sorted by layer within a model, so a model too large for the bound is run a few times, not once a
    layer.
    """

    def __init__(self, limit_bytes: int, images: Callable[[LoadedModel], Tensor]) -> None:
        self._cache: ByteCache[Reference | None] = ByteCache(limit_bytes, _bytes_of)
        self._images = images
        self.passes: Counter[str] = Counter()

    def get(self, model: LoadedModel, layer: str) -> Reference:
        """The reference of ``layer``; raises ``ModelError`` where the forward never reaches it."""
        key = (model.entry.name, layer)
        if key not in self._cache:
            self._capture(model, layer)
        reference = self._cache.get(key)
        if reference is None:
            raise ModelError(
                f"A layer case needs a layer that the model's forward calls with tensors; "
                f"{layer!r} of {model.entry.name!r} is never called so. Exclude it with --qbench-layers."
            )
        return reference

    @torch.no_grad()
    def _capture(self, model: LoadedModel, first: str) -> None:
        self.passes[model.entry.name] += 1
        names = list(model.layers)
        window = names[names.index(first) :]
        capture = _Capture(self._cache.limit_bytes // 2)
        handles = [
            handle for name in window for handle in capture.attach(name, model.layers[name].module)
        ]
        try:
            model.module(self._images(model))
        except Exception as error:
            raise ModelError(
                f"A model runs on images of its input_size {model.entry.input_size}; "
                f"{model.entry.name!r} raised {type(error).__name__}: {error}. Mend its entry, or "
                "choose another dataset with --qbench-data."
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        for name in reversed(window):
            if name == first or name in capture.found or name not in capture.seen:
                self._cache.put((model.entry.name, name), capture.found.get(name))


class _Capture:
    """Forward hooks that copy what layers read and give, until a bound in bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._left = limit_bytes
        self._calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self.found: dict[str, Reference] = {}
        #: Layers that were called at all.
        self.seen: set[str] = set()

    def attach(self, name: str, module: nn.Module) -> tuple[RemovableHandle, RemovableHandle]:
        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if name not in self.seen and (self._left > 0 or not self.seen):
                self._calls[name] = (_copied(args), dict(kwargs))
            self.seen.add(name)

        def after(_: nn.Module, __: object, ___: object, output: object) -> None:
            call = self._calls.pop(name, None)
            if call is None or not isinstance(output, Tensor):
                return
            tensors = [a for a in call[0] if isinstance(a, Tensor)]
            if tensors:
                reference = Reference(*call, output.detach().clone(), range_metrics(tensors[0]))
                self.found[name] = reference
                self._left -= _bytes_of(reference)

        return (
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after, with_kwargs=True),
        )


def _copied(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.detach().clone() if isinstance(a, Tensor) else a for a in args)


def _bytes_of(reference: Reference | None) -> int:
    if reference is None:
        return 0
    tensors = [a for a in (*reference.args, reference.output) if isinstance(a, Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors)
