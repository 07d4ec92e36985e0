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

    #: Positional and keyword arguments, tensors copied before the layer could change them.
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    #: What the layer returned; the first of them where that was several tensors.
    output: Tensor
    #: Range of the first tensor among the arguments.
    input_range: RangeMetrics
    #: Images that the model was run on.
    batch: int


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
        images = self._images(model)
        self.passes[model.entry.name] += 1
        names = list(model.layers)
        # The first forward takes what it can; where that was not all, a later one goes on from there.
        again = self.passes[model.entry.name] > 1
        window = names[names.index(first) :] if again else names
        capture = _Capture(first, self._cache.limit_bytes // 2, len(images))
        handles = [
            handle for name in window for handle in capture.attach(name, model.layers[name].module)
        ]
        try:
            model.module(images)
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
    """Forward hooks that copy what layers read and give: of ``first``, and of others up to a bound."""

    def __init__(self, first: str, limit_bytes: int, batch: int) -> None:
        self._first = first
        self._left = limit_bytes
        self._batch = batch
        self._calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self.found: dict[str, Reference] = {}
        #: Layers that were called at all.
        self.seen: set[str] = set()

    def attach(self, name: str, module: nn.Module) -> tuple[RemovableHandle, RemovableHandle]:
        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if name not in self.seen and (self._left > 0 or name == self._first):
                self._calls[name] = _copied(args, kwargs)
            self.seen.add(name)

        def after(_: nn.Module, __: object, ___: object, output: object) -> None:
            call = self._calls.pop(name, None)
            result = first_tensor(output)
            if call is None or result is None:
                return
            tensors = _tensors(*call)
            if tensors:
                spread = range_metrics(tensors[0])
                reference = Reference(*call, result.detach().clone(), spread, self._batch)
                self.found[name] = reference
                self._left -= _bytes_of(reference)

        return (
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after, with_kwargs=True),
        )


def first_tensor(output: object) -> Tensor | None:
    """What is compared of a layer's output: a tensor, or the first of a tuple; None for others."""
    if isinstance(output, tuple) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def _copied(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments, tensors copied; one that was passed twice, as in self-attention, stays one."""
    copies = {id(x): x.detach().clone() for x in _tensors(args, kwargs)}
    return (
        tuple(copies.get(id(x), x) for x in args),
        {name: copies.get(id(x), x) for name, x in kwargs.items()},
    )


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    return [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]


def _bytes_of(reference: Reference | None) -> int:
    if reference is None:
        return 0
    tensors = [*_tensors(reference.args, reference.kwargs), reference.output]
    return sum(t.numel() * t.element_size() for t in tensors)
