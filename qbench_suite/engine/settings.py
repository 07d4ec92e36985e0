"""Settings: what a run's cases have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """What a run's cases have in common."""

    #: Seed of input choice and stochastic rounding.
    seed: int = 0
    #: Images in a model's reference input.
    batch: int = 16
    #: Bytes that models and references may hold, half each.
    cache_bytes: int = 1 << 30
    #: torch device.
    device: str = "cpu"
    #: Dataset for every model; None for each model's own.
    dataset: str | None = None
    #: ``format-mode``, ``case`` (the case's own) or ``none`` by role, in place of the layer's default.
    roles: Mapping[str, str] = field(default_factory=dict)
    #: Side lengths of the tensor of quantizer cases.
    quantizer_shape: tuple[int, ...] = (4096, 4096)
