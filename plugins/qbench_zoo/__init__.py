"""The zoo: five small models trained on handwritten digits, shipped with their weights.

It gives the suite models whose accuracy means something, with neither downloads nor a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from qbench_suite import DatasetEntry, ModelEntry, hookimpl
from qbench_zoo.architectures import ARCHITECTURES, INPUT_SIZE, MEAN, NUM_CLASSES, STD
from qbench_zoo.commands import add_zoo

if TYPE_CHECKING:
    from torch import nn

    from qbench_zoo.digits import Digits


@hookimpl
def qbench_register_models(register: Callable[[ModelEntry], None]) -> None:
    """Register the models of the zoo."""
    for name, architecture in ARCHITECTURES.items():
        register(
            ModelEntry(
                name=name,
                build=partial(_build, name),
                dataset="digits",
                input_size=INPUT_SIZE,
                num_classes=NUM_CLASSES,
                mean=(MEAN,),
                std=(STD,),
                description=architecture.description,
                default=True,
            )
        )


@hookimpl
def qbench_register_datasets(register: Callable[[DatasetEntry], None]) -> None:
    """Register ``digits``."""
    register(
        DatasetEntry(
            name="digits",
            load=_load,
            num_classes=NUM_CLASSES,
            description="1,797 handwritten digits of scikit-learn as 32x32 gray, 500 held out",
        )
    )


@hookimpl
def qbench_cli_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``qbench zoo``."""
    add_zoo(commands)


# torch, timm and scikit-learn take seconds to import; naming the entries must not.
def _build(name: str) -> nn.Module:
    from qbench_zoo.weights import load_model

    return load_model(name)


def _load(split: str) -> Digits:
    from qbench_zoo.digits import load

    return load(split)
