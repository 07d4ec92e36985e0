"""The images that reference activations come from."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from qbench_suite.errors import DatasetError, QBenchError
from qbench_suite.manager import Manager
from qbench_suite.models import ModelEntry


def reference_images(
    manager: Manager, entry: ModelEntry, dataset: str, batch: int, seed: int
) -> Tensor:
    """``batch`` held-out images as ``entry`` wants them: (batch, *input_size), float32, normalised.

    ``dataset``: a registered name, or ``random`` for standard normal inputs. Images of another size
    are resized bilinearly; one channel is repeated, more are averaged to one.
    """
    generator = torch.Generator().manual_seed(seed)
    if dataset == "random":
        return torch.randn(batch, *entry.input_size, generator=generator)
    try:
        split = manager.datasets.get(dataset).load("test")
        count = len(split)  # type: ignore[arg-type]
        chosen = torch.randperm(count, generator=generator)[:batch].tolist()
        images = [_fit(split[i][0], entry.input_size) for i in chosen]
    except QBenchError:
        raise
    except Exception as error:
        raise DatasetError(
            f"A dataset gives (image, label) pairs; {dataset!r} raised {type(error).__name__}: "
            f"{error}. Mend the dataset, or pass --qbench-data random."
        ) from error
    if not images:
        raise DatasetError(f"A dataset holds images; {dataset!r} is empty. Choose another one.")
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (entry.mean, entry.std))
    return (torch.stack(images) - mean) / std


def _fit(image: Tensor, size: tuple[int, int, int]) -> Tensor:
    channels, height, width = size
    image = image.to(torch.float32)
    if tuple(image.shape[1:]) != (height, width):
        image = F.interpolate(
            image[None], (height, width), mode="bilinear", align_corners=False, antialias=True
        )[0]
    if image.shape[0] == channels:
        return image
    if channels == 1:
        return image.mean(0, keepdim=True)
    if image.shape[0] == 1:
        return image.expand(channels, -1, -1)
    raise DatasetError(
        f"Images fit a model of {channels} channels if they have as many, or one; got "
        f"{image.shape[0]} channels. Choose another dataset with --qbench-data."
    )
