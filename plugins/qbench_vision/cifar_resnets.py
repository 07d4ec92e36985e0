"""ResNets for CIFAR: ``cifar:resnet20``, 32, 44, 56 and 110, and ``cifar:resnet20@<file>``.

Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016,
section 4.2, with shortcuts of option A.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from qbench_suite import ModelEntry, ModelError
from qbench_vision.checkpoints import check_file, load_strictly, read_checkpoint
from qbench_vision.names import nearest
from qbench_vision.preprocessing import statistics
from qbench_vision.seeding import fixed_weights

#: Name → number of residual blocks in each of the three stages; layers are six times as many, and two.
DEPTHS = {f"resnet{6 * blocks + 2}": blocks for blocks in (3, 5, 7, 9, 18)}
#: What pixels in 0…1 were normalised with in training.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """``relu(x + bn2(conv2(relu(bn1(conv1(x))))))``.

    Where the block has more channels than its input, it has half the height and width, and the
    shortcut takes every other pixel and puts zero channels around.
    """

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.stride = 1 if channels_in == channels else 2
        self.padding = (channels - channels_in) // 2
        self.conv1 = nn.Conv2d(channels_in, channels, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, channels, height / stride, width / stride)."""
        out = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        if self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *[self.padding] * 2))
        result: Tensor = self.act2(x + out)
        return result


class CifarResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels: (batch, 3, 32, 32) → (batch, num_classes)."""

    def __init__(self, blocks: int, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = nn.ReLU()
        self.layer1 = _stage(16, 16, blocks)
        self.layer2 = _stage(16, 32, blocks)
        self.layer3 = _stage(32, 64, blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.flatten(self.pool(x)))
        return logits


def entry(match: re.Match[str]) -> ModelEntry:
    """Return the entry of a name; its groups are ``model``, and ``file`` or not.

    Nothing is built; of a file, the shapes are read: they tell the classes.

    Raises:
        ModelError: there is no such ResNet, or the file cannot be read.
    """
    model = match["model"]
    file = Path(match["file"]).expanduser() if match.groupdict().get("file") else None
    if file:
        check_file(file)
    if model not in DEPTHS:
        raise ModelError(
            f"A ResNet for CIFAR is one of {', '.join(DEPTHS)}; got {model!r}. "
            f"{nearest(model, list(DEPTHS))}"
        )
    head = read_checkpoint(file).get("linear.weight") if file else None
    num_classes = 10 if head is None else head.shape[0]
    return ModelEntry(
        name=match[0],
        build=partial(_build, model, file, num_classes),
        input_size=(3, 32, 32),
        num_classes=num_classes,
        mean=MEAN,
        std=STD,
        preprocessing=f"resize 32x32 bilinear, {statistics(MEAN, STD)}",
        description=f"CIFAR {model}, {f'weights of {file.name}' if file else 'random weights'}",
    )


def _stage(channels_in: int, channels: int, blocks: int) -> nn.Sequential:
    first = Block(channels_in, channels)
    return nn.Sequential(first, *(Block(channels, channels) for _ in range(blocks - 1)))


def _build(model: str, file: Path | None, num_classes: int) -> nn.Module:
    with fixed_weights():
        module = CifarResNet(DEPTHS[model], num_classes).eval()
    if file:
        load_strictly(module, read_checkpoint(file), f"{file} as {model} for CIFAR")
    return module
