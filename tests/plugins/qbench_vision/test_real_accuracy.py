"""Trained models on real images: float accuracy to the hundredth, by a plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qbench_suite.manager import Manager

REAL = Path(__file__).parents[4] / "shared" / "data"


def accuracy(model: torch.nn.Module, images: Any, labels: list[int]) -> tuple[float, float]:
    """Top-1 and top-5 in percent, rounded to the hundredth."""
    with torch.inference_mode():
        best = torch.cat([model(batch).topk(5).indices for batch in images])
    hits = best == torch.tensor(labels)[:, None]
    return round(100 * hits[:, 0].float().mean().item(), 2), round(
        100 * hits.any(1).float().mean().item(), 2
    )


def real(name: str) -> Path:
    if not (REAL / name).exists():
        pytest.skip(f"the real data is not at {REAL / name}")
    return REAL / name


@pytest.mark.slow
def test_deit_on_photographs_in_a_folder(manager: Manager) -> None:
    weights, photographs = real("deit_tiny_patch16_224.safetensors"), real("imagenet_val1300")
    model = manager.models.get(f"timm:deit_tiny_patch16_224@{weights}")
    dataset = manager.datasets.get(f"folder:{photographs}")
    assert dataset.sparse_labels
    assert model.transform
    assert dataset.load_images
    transform, images = model.transform(), dataset.load_images("test")
    count = len(images)  # type: ignore[arg-type]
    batches = (
        torch.stack([transform(images[i][0]) for i in range(at, min(at + 50, count))])
        for at in range(0, count, 50)
    )
    rows = (photographs / "labels.csv").read_text().splitlines()[1:]
    labels = [int(row.split(",")[1]) for row in rows]
    assert accuracy(model.build(), batches, labels) == (81.54, 94.46)


@pytest.mark.slow
def test_resnet20_on_an_archive(manager: Manager) -> None:
    weights, archive = real("resnet20_cifar10.safetensors"), real("cifar10_test.npz")
    model = manager.models.get(f"cifar:resnet20@{weights}")
    dataset: Any = manager.datasets.get(f"npz:{archive}").load("test")
    assert model.transform is None
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.mean, model.std))
    batches = (
        torch.stack([(dataset[i][0] - mean) / std for i in range(at, at + 500)])
        for at in range(0, len(dataset), 500)
    )
    labels = [dataset[i][1] for i in range(len(dataset))]
    assert accuracy(model.build(), batches, labels) == (91.73, 99.66)
