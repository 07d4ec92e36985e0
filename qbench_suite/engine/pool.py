"""ModelPool: each model is built once a process, whatever the order it is asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from qbench_suite.convert.replacements import FloatModule, Replacement, replacements
from qbench_suite.engine.cache import ByteCache
from qbench_suite.errors import ModelError, QBenchError
from qbench_suite.manager import Manager
from qbench_suite.models import ModelEntry


@dataclass(frozen=True)
class LoadedModel:
    """A float model, and which of its modules can be quantized."""

    entry: ModelEntry
    module: nn.Module
    #: Modules that a registered layer replaces, by dotted name.
    layers: dict[str, Replacement]
    #: Modules that no registered layer replaces, by dotted name, with the reason.
    float_modules: dict[str, FloatModule]


class ModelPool:
    """Models by name, bounded in bytes; ``loads`` counts how often each was built."""

    def __init__(self, manager: Manager, limit_bytes: int, device: torch.device) -> None:
        self._manager = manager
        self._device = device
        self._cache: ByteCache[LoadedModel] = ByteCache(limit_bytes, _bytes_of)
        self.loads: Counter[str] = Counter()

    def get(self, name: str) -> LoadedModel:
        """The model called ``name``; raises ``ModelError`` where it cannot be built."""
        loaded = self._cache.get(name)
        if loaded is None:
            self.loads[name] += 1
            loaded = self._cache.put(name, self._load(name))
        return loaded

    def _load(self, name: str) -> LoadedModel:
        entry = self._manager.models.get(name)
        try:
            module = entry.build().to(self._device).eval().requires_grad_(False)
        except QBenchError:
            raise
        except Exception as error:
            raise ModelError(
                f"A model plugin builds its model; {name!r} of {self._manager.models.owner(name)} "
                f"raised {type(error).__name__}: {error}. Mend the plugin or the name."
            ) from error
        layers, float_modules = replacements(module, self._manager)
        return LoadedModel(entry, module, layers, float_modules)


def _bytes_of(loaded: LoadedModel) -> int:
    tensors = (*loaded.module.parameters(), *loaded.module.buffers())
    return sum(t.numel() * t.element_size() for t in tensors)
