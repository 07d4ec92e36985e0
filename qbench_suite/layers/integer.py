"""IntegerBlock: a part of a model in which no float operation runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn


class IntegerBlock(nn.Module, ABC):
    """A part of a model that maps integer codes to integer codes.

    ``forward`` and everything below it compute on integer tensors alone; floats are met only at the
    rim, in ``quantize_input`` and ``dequantize_output``, which ``forward`` does not call.
    """

    #: Patterns of names of float entries of the state dict: scales that the rim alone reads.
    float_state: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def forward(self, codes: Tensor) -> Tensor:
        """Codes of the input → codes of the output, both integer."""

    @abstractmethod
    def quantize_input(self, x: Tensor) -> Tensor:
        """Float activations of the part that the block replaces → codes of its input."""

    @abstractmethod
    def dequantize_output(self, codes: Tensor) -> Tensor:
        """Codes of the output → float activations."""

    @abstractmethod
    def stages(self, codes: Tensor) -> Mapping[str, Tensor]:
        """What every step gives on ``codes``, as float values, by name in order of execution."""

    @abstractmethod
    def float_stages(self, x: Tensor) -> Mapping[str, Tensor]:
        """The same steps of the float original on ``x``: same names, same shapes."""

    def native_libraries(self) -> tuple[Path, ...]:
        """Compiled libraries that the block computes in, for a look at their instructions."""
        return ()
