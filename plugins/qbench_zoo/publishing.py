"""Publishing a model: train it, write its weights, measure them, write its card."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import timm
import torch

from qbench_zoo.accuracy import top1
from qbench_zoo.architectures import Architecture
from qbench_zoo.card import Card, sha256, write_card
from qbench_zoo.digits import load
from qbench_zoo.training import Recipe, train
from qbench_zoo.weights import PACKAGE, load_model, save_weights


def publish(
    architecture: Architecture,
    recipe: Recipe,
    folder: Path = PACKAGE,
    report: Callable[[int, float], None] = lambda _epoch, _loss: None,
) -> Card:
    """Train a model, write its weights and card below ``folder`` and return the card.

    ``report(epoch, mean loss)`` is called after each epoch. The last epoch is published, whatever
    the held-out digits say: choosing an epoch by them would make them training digits.

    Raises:
        OSError: the folder cannot be written.
    """
    start = time.perf_counter()
    model = train(architecture, load("train"), recipe, report)
    seconds = time.perf_counter() - start
    path = save_weights(model, architecture.name, folder)
    held_out = load("test")
    card = Card(
        name=architecture.name,
        architecture=architecture.timm_name,
        kwargs=architecture.kwargs,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        bytes=path.stat().st_size,
        sha256=sha256(path),
        recipe=asdict(recipe),
        seconds=round(seconds, 1),
        held_out=len(held_out),
        # Measured on what was written, so that the card speaks of the file and not of the memory.
        top1=round(top1(load_model(architecture.name, folder), held_out), 2),
        torch=torch.__version__,
        timm=timm.__version__,
    )
    write_card(card, folder)
    return card
