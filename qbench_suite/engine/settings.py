"""Settings: what a run's cases have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What a run's cases have in common."""

    #: Seed of input choice and stochastic rounding.
    seed: int = 0
    #: Images in a model's reference input.
    batch: int = 16
    #: Bytes that models and references may hold, half each; inputs of model cases take another half,
    #: those of calibration a quarter, where there are such cases.
    cache_bytes: int = 1 << 30
    #: torch device.
    device: str = "cpu"
    #: Dataset for every model; None for each model's own.
    dataset: str | None = None
    #: ``format-mode``, ``case`` (the case's own) or ``none`` by role, in place of the layer's default.
    roles: Mapping[str, str] = field(default_factory=dict)
    #: Images that a model case evaluates; None for all of the dataset's held-out split.
    images: int | None = None
    #: Images in a batch of a model case.
    eval_batch: int = 32
    #: Whether model cases measure the drift at every layer too.
    layerwise: bool = True
    #: YAML file that says what compliance looks at in model cases; None for the suite's own rules.
    compliance: Path | None = None
    #: Images that model cases may leave out because they cannot be read.
    broken_images: int = 10
    #: Folder that float logits are kept in between runs; None to keep them in memory only.
    fp32_cache: Path | None = None
    #: Folder that unfinished evaluations are kept in, to go on with; None to keep none.
    unfinished: Path | None = None
    #: Images that integer cases calibrate on, at most.
    integer_calibration: int = 64
    #: Whether integer cases have torch.compile make the bfloat16 block that they are compared with.
    compiled_twin: bool = True
    #: Side lengths of the tensor of quantizer cases.
    quantizer_shape: tuple[int, ...] = (4096, 4096)
