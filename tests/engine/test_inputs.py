"""Reference images: size, channels, pixels, and datasets that do not work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench_suite import DatasetEntry, DatasetError, Manager, ModelEntry, NameNotFoundError
from qbench_suite.engine.inputs import reference_images

MakeManager = Callable[..., Manager]
Images = list[tuple[Tensor, int]]


def model(size: tuple[int, int, int] = (3, 8, 8), **facts: Any) -> ModelEntry:
    return ModelEntry(name="m", build=nn.Identity, input_size=size, **facts)


@pytest.fixture
def images_of(make_manager: MakeManager) -> Callable[..., Tensor]:
    """Reference images of ``model`` from a dataset that is this list."""

    def images_of(data: Any, entry: ModelEntry, batch: int = 4, seed: int = 0) -> Tensor:
        load = data if callable(data) else lambda split: data
        dataset = DatasetEntry(name="d", load=load, num_classes=2)
        return reference_images(make_manager(datasets=[dataset]), entry, "d", batch, seed)

    return images_of


def test_random_images_are_normal_and_the_same_for_a_seed(make_manager: MakeManager) -> None:
    manager = make_manager()
    a, b = (reference_images(manager, model(), "random", 64, 3) for _ in range(2))
    c = reference_images(manager, model(), "random", 64, 4)
    assert a.shape == (64, 3, 8, 8)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert abs(float(a.mean())) < 0.05
    assert float(a.std()) == pytest.approx(1, abs=0.05)


def test_images_are_normalised_by_channel(images_of: Callable[..., Tensor]) -> None:
    entry = model((3, 2, 2), mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    found = images_of([(torch.full((3, 2, 2), 0.75), 0)], entry)
    assert found.shape == (1, 3, 2, 2)
    assert found[0, :, 0, 0].tolist() == [0.5, 2.0, 0.75]


def test_one_mean_serves_every_channel(images_of: Callable[..., Tensor]) -> None:
    found = images_of([(torch.ones(3, 2, 2), 0)], model((3, 2, 2), mean=(0.5,), std=(0.25,)))
    assert set(found.flatten().tolist()) == {2.0}


def test_other_sizes_are_resized(images_of: Callable[..., Tensor]) -> None:
    big = torch.rand(3, 16, 12)
    found = images_of([(big, 0)], model())
    assert found.shape == (1, 3, 8, 8)
    assert float(found.mean()) == pytest.approx(float(big.mean()), abs=0.02)
    assert found.min() >= 0
    assert found.max() <= 1


def test_gray_images_are_repeated_and_colours_are_averaged(
    images_of: Callable[..., Tensor],
) -> None:
    gray = torch.rand(1, 8, 8)
    found = images_of([(gray, 0)], model())
    assert all(torch.equal(found[0, c], gray[0]) for c in range(3))
    colour = torch.rand(3, 8, 8)
    assert torch.allclose(images_of([(colour, 0)], model((1, 8, 8)))[0, 0], colour.mean(0))


def test_channels_that_do_not_fit_are_refused(images_of: Callable[..., Tensor]) -> None:
    with pytest.raises(DatasetError, match="2 channels"):
        images_of([(torch.rand(2, 8, 8), 0)], model())


def test_images_are_chosen_by_seed_without_repetition(images_of: Callable[..., Tensor]) -> None:
    data = [(torch.full((1, 1, 1), float(i)), 0) for i in range(50)]
    entry = model((1, 1, 1))
    first, again, other = (images_of(data, entry, 20, seed).flatten() for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(set(first.tolist())) == 20


def test_small_dataset_gives_what_it_has(images_of: Callable[..., Tensor]) -> None:
    assert len(images_of([(torch.rand(3, 8, 8), 0)] * 3, model(), 16)) == 3


def test_empty_dataset_is_refused(images_of: Callable[..., Tensor]) -> None:
    with pytest.raises(DatasetError, match="empty"):
        images_of([], model())


class Broken:
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise OSError("unreadable")


def fails(split: str) -> Images:
    raise RuntimeError(f"no {split} split")


@pytest.mark.parametrize(
    ("data", "reason"), [(Broken(), "OSError: unreadable"), (fails, "RuntimeError: no test split")]
)
def test_dataset_that_raises_is_named(
    images_of: Callable[..., Tensor], data: object, reason: str
) -> None:
    with pytest.raises(DatasetError, match=reason) as caught:
        images_of(data, model())
    assert "'d' raised" in str(caught.value)
    assert "--qbench-data random" in str(caught.value)


def test_dataset_says_itself_what_is_wrong(images_of: Callable[..., Tensor]) -> None:
    def absent(split: str) -> Images:
        raise DatasetError("Download it first.")

    with pytest.raises(DatasetError, match=r"^Download it first\.$"):
        images_of(absent, model())


def test_unknown_dataset_is_answered_with_near_ones(make_manager: MakeManager) -> None:
    with pytest.raises(NameNotFoundError, match="digit"):
        reference_images(make_manager(), model(), "digit", 4, 0)
