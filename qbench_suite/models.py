"""What a model plugin registers: how to build it and what it eats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A float model that cases can be run on.

    ``build()`` returns a new ``nn.Module`` in eval mode with float32 parameters on the CPU; it takes
    images of shape (batch, *input_size) normalised as ``(pixel - mean) / std``, with pixels in 0…1.
    """

    #: Name in case ids, made of ``[A-Za-z0-9_.+:/]``.
    name: str
    #: Builds the module: eval mode, float32, CPU, weights loaded.
    build: Callable[[], nn.Module]
    #: Name of the dataset that its reference inputs come from by default.
    dataset: str = "random"
    #: (channels, height, width) of one input.
    input_size: tuple[int, int, int] = (3, 224, 224)
    #: Number of classes that the head tells apart.
    num_classes: int = 1000
    #: Mean of each input channel, in pixels 0…1.
    mean: tuple[float, ...] = (0.0,)
    #: Standard deviation of each input channel, in pixels 0…1.
    std: tuple[float, ...] = (1.0,)
    #: Makes the transform from a PIL image to the model's input, normalised, as published with its
    #: weights; None for a plain resize. Datasets of tensors are resized and normalised in any case.
    transform: Callable[[], Callable[[Image], Tensor]] | None = None
    #: The transform in words, for instance ``resize 248 bicubic, center crop 224``.
    preprocessing: str = ""
    #: One line for ``qbench list models``.
    description: str = ""
    #: Whether the default grid holds it.
    default: bool = False
