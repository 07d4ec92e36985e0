"""What each layer of a model means under a policy, and the table of it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from qbench_suite.errors import ResultsError


@dataclass(frozen=True)
class LayerSensitivity:
    """What one layer means under one policy."""

    policy: str
    layer: str
    layer_type: str
    #: Of one image.
    multiply_adds: int
    #: Of the parameters that the policy quantizes.
    weight_elements: int
    #: Mean bits of one of those, scales included; None without any.
    weight_bits: float | None
    #: KL against the float model with this layer quantized alone.
    kl_only: float | None
    top1_only: float | None
    #: Top-1 of the float model less ``top1_only``, in points.
    top1_drop_only: float | None
    #: KL with all layers quantized but this one.
    kl_left_out: float | None
    top1_left_out: float | None
    #: KL with all layers quantized, less ``kl_left_out``: what leaving this one float would save.
    kl_saved: float | None
    #: What all of this was measured with.
    model: str
    dataset: str
    images: int
    seed: int
    #: Images in a batch, in the end; less than asked for where memory ran out.
    batch: int
    policy_hash: str


def write_layers(path: Path, layers: Sequence[LayerSensitivity]) -> None:
    """Write them as CSV; raises ``ResultsError`` where that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(LayerSensitivity)])
            writer.writeheader()
            writer.writerows(asdict(layer) for layer in layers)
    except OSError as error:
        raise ResultsError(
            f"Results go to a folder that can be written; {path}: {error.strerror or error}. Choose "
            "another with --results."
        ) from error
