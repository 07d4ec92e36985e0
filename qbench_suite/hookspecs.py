"""Every hook a plugin may implement: its signature and a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import argparse

    from qbench_suite.calibration.rounding import RoundingRule
    from qbench_suite.datasets import DatasetEntry
    from qbench_suite.formats import Format
    from qbench_suite.integers import IntegerMethod
    from qbench_suite.layers import QuantFunction, QuantModule
    from qbench_suite.linears import LinearEntry
    from qbench_suite.models import ModelEntry
    from qbench_suite.norms import NormKernel
    from qbench_suite.policies import PolicyEntry
    from qbench_suite.registry import Family
    from qbench_suite.scaling import Mode, RangeRule

PROJECT = "qbench"
#: Decorator of a plugin's hook functions.
hookimpl = pluggy.HookimplMarker(PROJECT)
hookspec = pluggy.HookspecMarker(PROJECT)


@hookspec
def qbench_register_formats(register: Callable[[Format | Family[Format]], None]) -> None:
    """Call ``register`` on each number format."""


@hookspec
def qbench_register_modes(register: Callable[[Mode | Family[Mode]], None]) -> None:
    """Call ``register`` on each scaling mode."""


@hookspec
def qbench_register_layers(register: Callable[[type[QuantModule]], None]) -> None:
    """Call ``register`` on each quantized layer class."""


@hookspec
def qbench_register_functions(register: Callable[[type[QuantFunction]], None]) -> None:
    """Call ``register`` on each quantized function class."""


@hookspec
def qbench_register_range_rules(
    register: Callable[[RangeRule | Family[RangeRule]], None],
) -> None:
    """Call ``register`` on each rule that turns observed values into the range of a scale."""


@hookspec
def qbench_register_rounding_rules(register: Callable[[RoundingRule], None]) -> None:
    """Call ``register`` on each rule that rounds weights to their grid."""


@hookspec
def qbench_register_linears(register: Callable[[LinearEntry], None]) -> None:
    """Call ``register`` on each linear layer that computes in low precision."""


@hookspec
def qbench_register_integer_methods(register: Callable[[IntegerMethod], None]) -> None:
    """Call ``register`` on each way to run a model in integers."""


@hookspec
def qbench_register_norm_kernels(register: Callable[[NormKernel], None]) -> None:
    """Call ``register`` on each kernel of a normalization."""


@hookspec
def qbench_register_policies(register: Callable[[PolicyEntry], None]) -> None:
    """Call ``register`` on each policy."""


@hookspec
def qbench_register_models(register: Callable[[ModelEntry | Family[ModelEntry]], None]) -> None:
    """Call ``register`` on each model."""


@hookspec
def qbench_register_datasets(
    register: Callable[[DatasetEntry | Family[DatasetEntry]], None],
) -> None:
    """Call ``register`` on each dataset."""


@hookspec
def qbench_machine_info(info: dict[str, Any]) -> None:
    """Add facts about this machine or the installed libraries to ``info``, as plain JSON types."""


@hookspec
def qbench_cli_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add a subcommand of ``qbench``; its parser sets ``run`` to a ``Callable[[Namespace], int]``."""
