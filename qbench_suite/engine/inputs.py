"""Images of a dataset as a model wants them, and those that reference activations come from."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qbench_suite.errors import BrokenImageError, DatasetError, QBenchError
from qbench_suite.manager import Manager
from qbench_suite.models import ModelEntry

if TYPE_CHECKING:
    from PIL.Image import Image

#: The dataset that is none: standard normal inputs.
RANDOM = "random"
#: Pillow's mode of an image with so many channels.
_PIL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
#: Inputs that a split of ``random`` holds.
_RANDOM_LENGTH = 1 << 16


class ModelInputs:
    """A split of a dataset as the inputs of a model: float32, normalised, shape ``input_size``.

    Images go through the transform that the model brings where the dataset has them as images, and are
    resized bilinearly and normalised otherwise; one channel is repeated, more are averaged to one.
    ``random`` stands for standard normal inputs without labels, each the same for a seed.

    Raises ``DatasetError`` for a dataset that does not work, here and when an input is read.
    """

    def __init__(
        self, manager: Manager, entry: ModelEntry, dataset: str, split: str, seed: int = 0
    ) -> None:
        self.entry, self.dataset, self.split = entry, dataset, split
        self._seed = seed
        self._items: Any = None
        self._transform: Any = None
        if dataset == RANDOM:
            self.preprocessing = "standard normal values"
            return
        source = manager.datasets.get(dataset)
        height, width = entry.input_size[1:]
        self.preprocessing = f"resize {height}x{width} bilinear"
        with self._blamed():
            if entry.transform is not None and source.load_images is not None:
                self._items, self._transform = source.load_images(split), entry.transform()
                self.preprocessing = entry.preprocessing or "the model's own transform"
            else:
                self._items = source.load(split)
            len(self._items)

    def __len__(self) -> int:
        return _RANDOM_LENGTH if self._items is None else len(self._items)

    def read(self, index: int) -> tuple[Tensor, int]:
        """The input at ``index`` and its label, −1 where it has none; ``BrokenImageError`` if broken."""
        if self._items is None:
            # torch looks at the last 32 bits of a seed only.
            number = zlib.crc32(f"{self._seed} {self.split} {index}".encode())
            generator = torch.Generator().manual_seed(number)
            return torch.randn(self.entry.input_size, generator=generator), -1
        with self._blamed():
            image, label = self._items[index]
            return self._fitted(image), int(label)

    def _fitted(self, image: Any) -> Tensor:
        entry = self.entry
        if self._transform is None:
            mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (entry.mean, entry.std))
            return (_fit(image, entry.input_size) - mean) / std
        made: Tensor = self._transform(_with_channels(image, entry.input_size[0]))
        if tuple(made.shape) != tuple(entry.input_size):
            raise DatasetError(
                f"The transform of a model gives its input_size {entry.input_size}; that of "
                f"{entry.name!r} gave {tuple(made.shape)}. Mend its entry."
            )
        return made

    def _blamed(self) -> _Blame:
        return _Blame(self.dataset)


class _Blame:
    """Turns what a dataset raises into a ``DatasetError`` that names it."""

    def __init__(self, dataset: str) -> None:
        self._dataset = dataset

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, QBenchError | MemoryError):
            raise DatasetError(
                f"A dataset gives (image, label) pairs; {self._dataset!r} raised "
                f"{type(error).__name__}: {error}. Mend the dataset, or pass --qbench-data random."
            ) from error


def reference_images(
    manager: Manager, entry: ModelEntry, dataset: str, batch: int, seed: int
) -> Tensor:
    """``batch`` held-out images as ``entry`` wants them: (batch, *input_size), float32, normalised.

    ``dataset``: a registered name, or ``random`` for standard normal inputs. They are drawn by seed;
    another one takes the place of an image that cannot be read.
    """
    generator = torch.Generator().manual_seed(seed)
    if dataset == RANDOM:
        return torch.randn(batch, *entry.input_size, generator=generator)
    inputs = ModelInputs(manager, entry, dataset, "test")
    images: list[Tensor] = []
    broken: list[str] = []
    for index in torch.randperm(len(inputs), generator=generator).tolist():
        if len(images) == batch:
            break
        try:
            images.append(inputs.read(index)[0])
        except BrokenImageError as error:
            broken.append(str(error))
    if not images:
        state = f"holds none that can be read, first: {broken[0]}" if broken else "is empty"
        raise DatasetError(f"A dataset holds images; {dataset!r} {state}. Choose another one.")
    return torch.stack(images)


def _with_channels(image: Image, channels: int) -> Image:
    """``image`` as Pillow's mode of ``channels`` channels, for transforms that count on it."""
    mode = _PIL_MODES.get(channels, image.mode)
    return image if image.mode == mode else image.convert(mode)


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
