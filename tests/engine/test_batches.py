"""Images as batches: which, in what order, through which transform, and what cannot be read."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from qbench_suite import DatasetEntry, DatasetError, Manager, ModelEntry
from qbench_suite.engine.batches import ImageSource, require_classes, require_labels, subset
from qbench_suite.errors import BrokenImageError

MakeManager = Callable[..., Manager]
MakeSource = Callable[..., ImageSource]


class Numbered:
    """Images of one channel that hold their own index; reads are counted."""

    def __init__(self, count: int, broken: tuple[int, ...] = ()) -> None:
        self.count, self.broken, self.reads = count, broken, Counter[int]()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.reads[index] += 1
        if index in self.broken:
            raise BrokenImageError(f"image {index} is cut short")
        return torch.full((1, 2, 2), float(index)), index % 4


def model(size: tuple[int, int, int] = (1, 2, 2), **facts: Any) -> ModelEntry:
    return ModelEntry(name="m", build=nn.Identity, input_size=size, num_classes=4, **facts)


@pytest.fixture
def make_source(make_manager: MakeManager) -> MakeSource:
    """``make_source(data, entry, classes=…, …)``: ``data`` is the split, ``…`` goes to ``ImageSource``."""

    def make(
        data: Any,
        entry: ModelEntry | None = None,
        *,
        classes: int = 4,
        pictures: Any = None,
        **rest: Any,
    ) -> ImageSource:
        load_images = None if pictures is None else lambda split: pictures
        entry = entry or model()
        dataset = DatasetEntry(
            name="d", load=lambda split: data, num_classes=classes, load_images=load_images
        )
        return ImageSource(make_manager(datasets=[dataset]), entry, "d", **rest)

    return make


def numbers(images: Tensor) -> list[int]:
    return [int(image.flatten()[0]) for image in images]


@pytest.mark.parametrize("ahead", [True, False])
def test_all_images_come_once_in_order(make_source: MakeSource, ahead: bool) -> None:
    batches = list(make_source(Numbered(10)).batches(4, ahead=ahead))
    assert [numbers(b.images) for b in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [b.end for b in batches] == [4, 8, 10]
    labels = [b.labels.tolist() for b in batches if b.labels is not None]
    assert labels == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1]]


def test_a_later_start_gives_what_is_left(make_source: MakeSource) -> None:
    source = make_source(Numbered(10))
    assert [numbers(b.images) for b in source.batches(4, 7)] == [[7, 8, 9]]
    assert list(source.batches(4, 10)) == []


@pytest.mark.parametrize(
    ("count", "images"), [(10, 10), (10, 3), (1300, 100), (7, 6), (5, 9), (3, None)]
)
def test_a_subset_takes_one_image_of_each_stretch(count: int, images: int | None) -> None:
    chosen = subset(count, images, seed=1)
    wanted = count if images is None else min(images, count)
    assert len(set(chosen)) == wanted
    assert chosen == sorted(chosen)
    assert 0 <= chosen[0] <= chosen[-1] < count
    for place, index in enumerate(chosen):
        assert place * count // wanted <= index < (place + 1) * count // wanted
    assert chosen == subset(count, images, seed=1)


def test_another_seed_gives_another_subset_and_every_image_has_its_turn() -> None:
    assert subset(1000, 50, 0) != subset(1000, 50, 1)
    turns = Counter(index for seed in range(3000) for index in subset(10, 4, seed))
    assert set(turns) == set(range(10))


def test_images_that_cannot_be_read_are_named_and_left_out(make_source: MakeSource) -> None:
    batches = list(make_source(Numbered(6, broken=(1, 4, 5))).batches(2))
    assert [numbers(b.images) for b in batches] == [[0], [2, 3], []]
    assert [b.skipped for b in batches] == [
        ("image 1 is cut short",),
        (),
        ("image 4 is cut short", "image 5 is cut short"),
    ]
    assert batches[2].images.shape == (0, 1, 2, 2)


def test_sample_passes_over_images_that_cannot_be_read(make_source: MakeSource) -> None:
    assert numbers(make_source(Numbered(6, broken=(0, 1, 2))).sample(2)) == [3]
    with pytest.raises(DatasetError, match="holds none"):
        make_source(Numbered(2, broken=(0, 1))).sample(2)


def test_inputs_are_kept_up_to_a_bound_and_made_again_beyond_it(make_source: MakeSource) -> None:
    data = Numbered(6)
    source = make_source(data, cache_bytes=4 * 16)
    first, again = ([numbers(b.images) for b in source.batches(4)] for _ in range(2))
    assert first == again
    assert [data.reads[index] for index in range(6)] == [1, 1, 1, 1, 2, 2]


def test_a_thread_makes_one_batch_ahead_and_no_more(make_source: MakeSource) -> None:
    data = Numbered(20)
    batches = make_source(data).batches(4)
    next(batches)
    deadline = time.monotonic() + 5
    while sum(data.reads.values()) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert sum(data.reads.values()) == 8
    assert len(list(batches)) == 4
    assert not any(thread.name == "qbench-images" for thread in threading.enumerate())


def test_nothing_is_read_ahead_while_timing(make_source: MakeSource) -> None:
    data = Numbered(20)
    next(make_source(data).batches(4, ahead=False))
    assert sum(data.reads.values()) == 4


def test_what_a_dataset_raises_in_the_thread_is_raised_here(make_source: MakeSource) -> None:
    class Failing(Numbered):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            if index == 5:
                raise OSError("disk gone")
            return super().__getitem__(index)

    batches = make_source(Failing(8)).batches(4)
    next(batches)
    with pytest.raises(DatasetError, match="'d' raised OSError: disk gone"):
        next(batches)


def pixels(image: Any) -> Tensor:
    return torch.from_numpy(np.asarray(image, dtype=np.float32)).permute(2, 0, 1)


def test_the_transform_of_the_model_makes_its_input(make_source: MakeSource) -> None:
    picture = Image.new("RGB", (4, 6), (1, 2, 3))
    entry = model(
        (3, 6, 4), transform=lambda: lambda p: pixels(p) * 2, preprocessing="as published"
    )
    source = make_source([], entry, pictures=[(picture, 3)])
    (batch,) = source.batches(2)
    assert batch.images[0, :, 0, 0].tolist() == [2.0, 4.0, 6.0]
    assert source.inputs.preprocessing == "as published"


def test_gray_pictures_have_the_channels_that_the_transform_counts_on(
    make_source: MakeSource,
) -> None:
    picture = Image.new("L", (2, 2), 7)
    entry = model((3, 2, 2), transform=lambda: pixels)
    (batch,) = make_source([], entry, pictures=[(picture, 0)]).batches(1)
    assert batch.images.flatten().tolist() == [7.0] * 12


def test_a_transform_that_gives_another_size_is_refused(make_source: MakeSource) -> None:
    entry = model((3, 9, 9), transform=lambda: pixels)
    source = make_source([], entry, pictures=[(Image.new("RGB", (2, 2)), 0)])
    with pytest.raises(DatasetError, match=r"\(3, 9, 9\).*\(3, 2, 2\)"):
        list(source.batches(1))


@pytest.mark.parametrize("transform", [None, lambda: pixels])
def test_tensors_are_resized_and_normalised(make_source: MakeSource, transform: Any) -> None:
    entry = model((3, 2, 2), mean=(0.5,), std=(0.25,), transform=transform)
    (batch,) = make_source([(torch.ones(1, 4, 4), 0)], entry).batches(1)
    assert batch.images.shape == (1, 3, 2, 2)
    assert set(batch.images.flatten().tolist()) == {2.0}


def test_noise_has_no_labels_and_is_the_same_in_any_batch(make_manager: MakeManager) -> None:
    def noise(images: int | None, seed: int = 0, split: str = "test") -> ImageSource:
        entry = model((3, 4, 4))
        return ImageSource(make_manager(), entry, "random", images=images, seed=seed, split=split)

    source = noise(5)
    whole = source.batch(0, 5)
    assert whole.labels is None
    assert torch.equal(torch.cat([b.images for b in source.batches(2)]), whole.images)
    assert len({image.numpy().tobytes() for image in whole.images}) == 5
    for other in (noise(5, seed=1), noise(5, split="train")):
        assert not torch.equal(other.batch(0, 5).images, whole.images)
    assert len(noise(None)) == 256


def test_labels_that_mean_nothing_are_none(make_source: MakeSource) -> None:
    (batch,) = make_source(Numbered(2), classes=0).batches(2)
    assert batch.labels is None


def test_an_empty_split_is_refused(make_source: MakeSource) -> None:
    with pytest.raises(DatasetError, match="'test' of 'd' is empty"):
        make_source([])


@pytest.mark.parametrize(
    ("classes", "sparse", "fits"),
    [
        (4, False, True),
        (0, False, True),
        (3, False, False),
        (7, False, False),
        (3, True, True),
        (7, True, False),
    ],
)
def test_classes_of_model_and_dataset_agree(classes: int, sparse: bool, fits: bool) -> None:
    dataset = DatasetEntry(
        name="d",
        load=lambda split: None,  # type: ignore[arg-type,return-value]
        num_classes=classes,
        sparse_labels=sparse,
    )
    if fits:
        require_classes(model(), dataset)
        return
    with pytest.raises(DatasetError, match=f"'m' has 4 classes, 'd' has {classes}") as caught:
        require_classes(model(), dataset)
    assert "--qbench-data" in str(caught.value)


@pytest.mark.parametrize(
    ("label", "said"), [(-1, "without a label"), (4, "the label 4"), (-2, "the label -2")]
)
def test_labels_are_classes_of_the_model(label: int, said: str) -> None:
    require_labels(torch.tensor([0, 3]), 4, "d")
    with pytest.raises(DatasetError, match=said):
        require_labels(torch.tensor([0, label]), 4, "d")
