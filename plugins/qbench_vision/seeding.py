"""Random weights that are the same every time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def fixed_weights() -> Iterator[None]:
    """Within it, modules built on the CPU draw the same weights every time; nobody else notices.

    Only the CPU's generator is seeded, and set back afterwards: ``torch.manual_seed`` would also
    reseed those of the accelerators.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def open_branches(model: nn.Module) -> None:
    """Set the weight of every norm that starts at zero to one, in place.

    Trainings start so to switch residual branches off; left so, whatever quantization does within
    them would never reach the output.
    """
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim == 1 and not weight.any():
            nn.init.ones_(weight)
