"""Chain: which block reads the very tensor that another gives, and is all that reads it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

#: What codes and floats have in common, so that reading it needs no values: properties and methods.
_FRAME = frozenset({"shape", "ndim", "device", "layout", "is_cuda", "requires_grad"})
_FRAME_METHODS = frozenset({"size", "dim", "numel", "stride", "is_contiguous"})


class Chain(TorchFunctionMode):
    """Follows the outputs of blocks through runs of a model, each within ``with chain:``.

    The model's output has to live until the end of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._outputs: list[tuple[str, weakref.ref[Tensor]]] = []
        self._sources: dict[str, str | None] = {}
        #: Blocks whose output something other than a block reads.
        self._leaving: set[str] = set()
        self._inside = False

    def source(self, name: str) -> str | None:
        """The block that always feeds ``name``, and feeds nothing else; None where there is none."""
        source = self._sources.get(name)
        alone = list(self._sources.values()).count(source) == 1 and source not in self._leaving
        return source if alone else None

    @contextmanager
    def inside(self, name: str, x: Tensor) -> Iterator[list[Any]]:
        """While block ``name`` runs on ``x``; what is put on the list is its output."""
        source = self._giver(x)
        if self._sources.setdefault(name, source) != source:
            self._leaving |= {giver for giver in (source, self._sources[name]) if giver is not None}
            self._sources[name] = None
        outputs: list[Any] = []
        self._inside = True
        try:
            yield outputs
        finally:
            self._inside = False
        self._outputs = [pair for pair in self._outputs if pair[1]() is not None]
        self._outputs += [(name, weakref.ref(out)) for out in outputs if isinstance(out, Tensor)]

    def __exit__(self, *arguments: Any) -> None:
        super().__exit__(*arguments)  # type: ignore[no-untyped-call]
        # What lives on is in the model's output, or was kept for later.
        self._leaving |= {name for name, output in self._outputs if output() is not None}
        self._outputs = []

    def _giver(self, x: Any) -> str | None:
        return next((name for name, output in self._outputs if output() is x), None)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if not self._inside and not _reads_frame(func):
            for leaf in tree_leaves((args, kwargs)):
                giver = self._giver(leaf) if isinstance(leaf, Tensor) else None
                if giver is not None:
                    self._leaving.add(giver)
        return func(*args, **(kwargs or {}))


def _reads_frame(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return getattr(getattr(func, "__self__", None), "__name__", "") in _FRAME
    return name in _FRAME_METHODS
