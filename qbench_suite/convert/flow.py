"""Flow: which tensor goes where in a forward, and where its features lie."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qbench_suite.convert.functions import tensors_in
from qbench_suite.convert.operations import address_of
from qbench_suite.convert.replacements import features_first, features_last

#: Modules that a norm behind them can be folded into.
_FOLDS = (nn.Conv2d, nn.Linear)


@dataclass
class _Produced:
    path: str
    tensor: weakref.ref[Tensor]
    readers: list[str]


class Flow:
    """Who reads what convolutions and linear layers give."""

    def __init__(self) -> None:
        self._produced: dict[int, _Produced] = {}
        self._all: list[_Produced] = []
        #: Modules whose own calls read what begins at an address.
        self._readers: dict[int, set[str]] = {}

    def produced(self, path: str, module: nn.Module, output: Any) -> None:
        """``module`` gave ``output``."""
        if isinstance(module, _FOLDS) and isinstance(output, Tensor):
            entry = _Produced(path, weakref.ref(output), [])
            self._produced[id(output)] = entry
            self._all.append(entry)

    def consumed(self, path: str, values: Iterable[Any]) -> None:
        """A function call of module ``path`` read the tensors in ``values``."""
        for tensor in tensors_in(values):
            entry = self._produced.get(id(tensor))
            if entry is not None and entry.tensor() is tensor:
                entry.readers.append(path)
            self._readers.setdefault(address_of(tensor), set()).add(path)

    def foldable(self, model: nn.Module, once: Collection[str]) -> tuple[tuple[str, str], ...]:
        """(layer, batch norm) where the norm alone reads the layer, and both ran once.

        Nor are their parameters read by any other module.
        """
        return tuple(
            (entry.path, entry.readers[0])
            for entry in self._all
            if len(entry.readers) == 1
            and {entry.path, entry.readers[0]} <= set(once)
            and isinstance(model.get_submodule(entry.readers[0]), _BatchNorm)
            and self._keeps(model, entry.path)
            and self._keeps(model, entry.readers[0])
        )

    def _keeps(self, model: nn.Module, path: str) -> bool:
        """Whether only the module itself reads its parameters and buffers."""
        module = model.get_submodule(path)
        readers: set[str] = set()
        for tensor in (*module.parameters(), *module.buffers()):
            readers |= self._readers.get(address_of(tensor), set())
        return all(reader == path or reader.startswith(f"{path}.") for reader in readers)


class FeatureAxes:
    """Where features lie in tensors, from the last layer that tells.

    A layer's type says whether it has features on axis 1 or on the last; how many it has tells the
    axis of a tensor that was permuted since.
    """

    def __init__(self) -> None:
        self._axis: int | None = None
        self._features: int | None = None

    def told_by(self, module: nn.Module) -> None:
        """``module`` has run."""
        if features_first(module):
            self._axis = 1
        elif features_last(module):
            self._axis = -1
        else:
            return
        self._features = _features(module)

    def of(self, tensors: list[Tensor]) -> int | None:
        """The feature axis of images among ``tensors``; None for others, and where nothing tells."""
        image = next((t for t in tensors if t.dim() == 4 and t.is_floating_point()), None)
        if image is None or self._features is None:
            return None
        first = image.shape[1] == self._features
        last = image.shape[-1] == self._features
        if first and last:
            return self._axis
        return 1 if first else -1 if last else None


def _features(module: nn.Module) -> int | None:
    """Features of what ``module`` gives."""
    for name in ("out_channels", "out_features", "num_features", "num_channels"):
        if isinstance(count := getattr(module, name, None), int):
            return count
    shape = getattr(module, "normalized_shape", None)
    return int(shape[-1]) if shape else None
