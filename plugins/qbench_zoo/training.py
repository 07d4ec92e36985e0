"""Seeded training of a zoo model from scratch, on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from qbench_suite import DatasetError
from qbench_zoo.accuracy import normalise
from qbench_zoo.architectures import Architecture
from qbench_zoo.augmentation import jitter
from qbench_zoo.digits import Digits


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained: AdamW, linear warm-up, cosine decay to zero, label smoothing."""

    #: Passes over the training digits.
    epochs: int = 100
    #: Seed of the initial weights, the order of the digits and their jitter.
    seed: int = 0
    #: Threads of torch; results are bit-identical for one number of threads, not across numbers.
    threads: int = 1
    #: Digits in a step; an incomplete last batch is left out.
    batch: int = 64
    #: Largest learning rate.
    learning_rate: float = 2e-3
    #: Decay of matrices and filters; biases, norms and scales have none.
    weight_decay: float = 0.05
    #: Share of the target spread over all classes.
    label_smoothing: float = 0.1
    #: Share of the steps in which the learning rate climbs to its largest value.
    warmup: float = 0.05
    #: Largest norm of the gradient; without any normalization NFNet needs a bound.
    gradient_norm: float = 1.0


def train(
    architecture: Architecture,
    digits: Digits,
    recipe: Recipe,
    report: Callable[[int, float], None] = lambda _epoch, _loss: None,
) -> nn.Module:
    """Return the trained model in eval mode; ``report(epoch, mean loss)`` is called each epoch.

    Neither torch's global generator nor its number of threads is changed for the caller.

    Raises:
        DatasetError: ``digits`` are fewer than one batch.
    """
    if len(digits) < recipe.batch:
        raise DatasetError(
            f"a training needs at least one batch of {recipe.batch} digits; got {len(digits)}; "
            "give more digits or a smaller Recipe.batch"
        )
    with _isolated(recipe):
        model = architecture.build().train()
        for epoch, loss in enumerate(_epochs(model, digits, recipe), start=1):
            report(epoch, loss)
    return model.eval()


@contextmanager
def _isolated(recipe: Recipe) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _epochs(model: nn.Module, digits: Digits, recipe: Recipe) -> Iterator[float]:
    optimizer = AdamW(_parameter_groups(model, recipe), lr=recipe.learning_rate)
    steps = recipe.epochs * (len(digits) // recipe.batch)
    schedule = LambdaLR(optimizer, lambda step: _learning_rate(step, steps, recipe.warmup))
    generator = Generator().manual_seed(recipe.seed)
    for _ in range(recipe.epochs):
        losses = []
        for batch in _batches(len(digits), recipe.batch, generator):
            loss = _loss(model, digits.images[batch], digits.labels[batch], recipe, generator)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_norm)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        yield math.fsum(losses) / len(losses)


def _batches(count: int, size: int, generator: Generator) -> Tensor:
    order = torch.randperm(count, generator=generator)
    return order[: count // size * size].view(-1, size)


def _loss(
    model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, generator: Generator
) -> Tensor:
    logits = model(normalise(jitter(images, generator)))
    return functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)


def _parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _learning_rate(step: int, steps: int, warmup: float) -> float:
    climb = warmup * steps
    if step < climb:
        return (step + 1) / (climb + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - climb) / max(1.0, steps - climb)))
