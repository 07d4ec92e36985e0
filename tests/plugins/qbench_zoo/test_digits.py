"""The ``digits`` dataset: the same digits in the same splits, everywhere and for ever."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from qbench_suite import DatasetError
from qbench_zoo.architectures import INPUT_SIZE, MEAN, STD
from qbench_zoo.digits import HELD_OUT, SPLITS, load, upsample


def fingerprint(*tensors: Tensor) -> str:
    """SHA-256 of the raw bytes of tensors, shortened."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize(
    ("split", "expected"), [("test", "0baf1f3e76383c7f"), ("train", "d996ddab814c0873")]
)
def test_pixels_and_labels_never_change(split: str, expected: str) -> None:
    digits = load(split)
    assert fingerprint(digits.images, digits.labels) == expected


@pytest.mark.parametrize(("split", "count"), [("test", HELD_OUT), ("train", 1297)])
def test_items_fit_the_contract_of_a_dataset(split: str, count: int) -> None:
    digits = load(split)
    assert len(digits) == count
    image, label = digits[count - 1]
    assert image.shape == INPUT_SIZE
    assert image.dtype == torch.float32
    assert type(label) is int
    assert digits.images.min() == 0
    assert digits.images.max() == 1
    assert set(digits.labels.tolist()) == set(range(10))


def test_an_index_past_the_end_ends_iteration() -> None:
    digits = load("test")
    with pytest.raises(IndexError):
        digits[len(digits)]


def test_each_class_has_its_share_of_the_held_out() -> None:
    held_out = load("test").labels.bincount()
    everything = held_out + load("train").labels.bincount()
    share = everything * HELD_OUT / everything.sum()
    assert (held_out - share).abs().max() < 1


def test_splits_are_disjoint() -> None:
    seen = [{image.numpy().tobytes() for image in load(split).images} for split in SPLITS]
    assert len(seen[0] | seen[1]) == 1797
    assert not seen[0] & seen[1]


def test_upsampling_keeps_the_mean_and_interpolates_between_centres() -> None:
    ramp = 2.0 * torch.arange(8).expand(1, 8, 8)
    wide = upsample(ramp)
    assert wide.shape == (1, *INPUT_SIZE)
    assert wide.mean() == ramp.mean() / 16
    # The ramp climbs by 2, and output pixel 6 has its centre at source pixel 6.5 / 4 - 0.5 = 1.125.
    assert wide[0, 0, 0, 6] == 2 * 1.125 / 16


def test_a_split_is_loaded_once() -> None:
    assert load("test") is load("test")


def test_mean_and_std_are_those_of_the_training_pixels() -> None:
    pixels = load("train").images
    assert pixels.mean().item() == pytest.approx(MEAN, abs=1e-4)
    assert pixels.std().item() == pytest.approx(STD, abs=1e-4)


@pytest.mark.parametrize(
    ("split", "remedy"), [("trian", "did you mean 'train'?"), ("xyz", "use one of these")]
)
def test_an_unknown_split_is_an_error_that_names_the_splits(split: str, remedy: str) -> None:
    with pytest.raises(DatasetError) as error:
        load(split)
    assert str(error.value) == (
        f"a split of digits must be one of test, train; got {split!r}; {remedy}"
    )
