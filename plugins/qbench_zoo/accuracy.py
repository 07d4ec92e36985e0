"""Top-1 accuracy of a zoo model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench_zoo.architectures import MEAN, STD
from qbench_zoo.digits import Digits


def normalise(images: Tensor) -> Tensor:
    """Return ``(images - MEAN) / STD``, what every model of the zoo eats; any shape."""
    return (images - MEAN) / STD


@torch.inference_mode()
def top1(model: nn.Module, digits: Digits) -> float:
    """Return the share of ``digits`` that ``model``, in eval mode, gets right, in percent."""
    logits = torch.cat([model(normalise(batch)) for batch in torch.split(digits.images, 250)])
    right = logits.argmax(dim=1) == digits.labels
    return 100 * right.to(torch.float64).mean().item()
