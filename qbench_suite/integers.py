"""What a plugin registers to have models run in integers: how to convert one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qbench_suite.layers.integer import IntegerBlock


@dataclass(frozen=True)
class IntegerModel:
    """A copy of a float model of which parts run in integers."""

    #: Takes what the float model takes, and gives what it gives.
    module: nn.Module
    #: The integer blocks within ``module``, by the name of the float part that each replaces.
    blocks: Mapping[str, IntegerBlock]
    #: Parts of the same kind that stay float, by name, and why.
    refused: Mapping[str, str]


def _fits(_: nn.Module) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class IntegerMethod:
    """A way to run a model in integers, measured against the float model.

    ``convert(model, batches)`` calibrates on ``batches``, all of them, and leaves ``model`` as it is.
    It raises ``ConversionError`` where no part of the model can be converted, or calibration fails.
    """

    #: Name in case ids, made of ``[A-Za-z0-9_.+:/]``.
    name: str
    convert: Callable[[nn.Module, Sequence[Tensor]], IntegerModel]
    #: Why no part of a model can be converted; empty where some can.
    misfit: Callable[[nn.Module], str] = _fits
    #: Names of the models that the default grid has it on.
    default_models: tuple[str, ...] = ()
    #: Name of the format of weights and activations.
    format: str = "int8"
    #: One line for ``qbench list integers``.
    description: str = ""
    #: Whether the default grid holds it.
    default: bool = False
