"""Tally: everything that an evaluation adds up, batch by batch; what a later run goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qbench_suite.metrics import AccuracySums, ErrorSums, LogitDrift, RangeSums


@dataclass(frozen=True)
class LayerSums:
    """What one site gave: its output against the float model's, and the range of what it read."""

    error: ErrorSums = field(default_factory=ErrorSums)
    input: RangeSums = field(default_factory=RangeSums)

    def __add__(self, other: LayerSums) -> LayerSums:
        return LayerSums(self.error + other.error, self.input + other.input)


@dataclass(frozen=True)
class Tally:
    """Sums over the images so far; ``a + b`` are those of both, as far as the later one, ``b``, got."""

    #: Places of the source that are done, images that cannot be read included.
    position: int = 0
    #: Images that went through the models at once, in the end.
    batch: int = 0
    #: Which images were left out, and why.
    skipped: tuple[str, ...] = ()
    accuracy: AccuracySums = field(default_factory=AccuracySums)
    #: Of the float model.
    reference: AccuracySums = field(default_factory=AccuracySums)
    drift: LogitDrift = field(default_factory=LogitDrift)
    #: Of the logits.
    error: ErrorSums = field(default_factory=ErrorSums)
    layers: Mapping[str, LayerSums] = field(default_factory=dict)

    def __add__(self, other: Tally) -> Tally:
        layers = dict(self.layers)
        for name, sums in other.layers.items():
            layers[name] = layers.get(name, LayerSums()) + sums
        return Tally(
            position=other.position,
            batch=other.batch,
            skipped=self.skipped + other.skipped,
            accuracy=self.accuracy + other.accuracy,
            reference=self.reference + other.reference,
            drift=self.drift + other.drift,
            error=self.error + other.error,
            layers=layers,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types, infinities included."""
        return {
            "position": self.position,
            "batch": self.batch,
            "skipped": self.skipped,
            "accuracy": self.accuracy.to_json(),
            "reference": self.reference.to_json(),
            "drift": self.drift.to_json(),
            "error": self.error.to_json(),
            "layers": {
                name: {"error": sums.error.to_json(), "input": sums.input.to_json()}
                for name, sums in self.layers.items()
            },
        }

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Tally:
        """The tally that ``to_json`` gave; ``KeyError`` or ``TypeError`` for anything else."""
        return cls(
            position=state["position"],
            batch=state["batch"],
            skipped=tuple(state["skipped"]),
            accuracy=AccuracySums(**state["accuracy"]),
            reference=AccuracySums(**state["reference"]),
            drift=LogitDrift(**state["drift"]),
            error=ErrorSums(**state["error"]),
            layers={
                name: LayerSums(ErrorSums(**sums["error"]), RangeSums(**sums["input"]))
                for name, sums in state["layers"].items()
            },
        )
