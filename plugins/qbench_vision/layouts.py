"""Which images a folder holds, and how they are labelled."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from qbench_suite import DatasetError

#: Subfolders with the images held out from training, the first that is there.
HELD_OUT = ("val", "test")
#: The table of labels, with columns ``file`` and ``label``.
TABLE = "labels.csv"
#: The label of images without one.
UNLABELLED = -1


@dataclass(frozen=True)
class Listing:
    """The images of one split."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]


def class_names(root: Path) -> list[str]:
    """Return the names of the class subfolders, sorted: a class's label is its place here.

    Splits share the labels, whichever classes each has. Empty where there are no classes.

    Raises:
        DatasetError: ``root`` is no folder.
    """
    return sorted({name for folder in _splits(root) for name in _classes(folder)})


def list_images(root: Path, split: str) -> Listing:
    """Return the images of ``split`` (``"train"`` or ``"test"``), sorted, with their labels.

    Labels come from ``labels.csv``, else from subfolders, one a class, else there are none.

    Raises:
        DatasetError: ``root`` is no folder, or holds no such split, no images, or a wrong table.
    """
    if has_table(root):
        return _tabled(root)
    folder = _split_folder(root, split)
    labels = {name: label for label, name in enumerate(class_names(root))}
    samples = (
        make_dataset(folder, labels, extensions=IMG_EXTENSIONS, allow_empty=True) if labels else []
    )
    if not samples:
        flat = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMG_EXTENSIONS)
        samples = [(str(path), UNLABELLED) for path in flat]
    if not samples:
        raise DatasetError(
            f"A folder dataset holds images, in one subfolder a class or all in the folder; {folder} "
            f"holds no file that ends in {', '.join(IMG_EXTENSIONS)}. Check the path."
        )
    return Listing(tuple(Path(path) for path, _ in samples), tuple(label for _, label in samples))


def has_table(root: Path) -> bool:
    """Whether ``root`` has a table of labels."""
    return (root / TABLE).is_file()


def _splits(root: Path) -> list[Path]:
    """The folders of the splits, the held-out one first; ``root`` itself where it is not split."""
    if not root.is_dir():
        raise DatasetError(
            f"A folder dataset is a folder of images; {str(root)!r} is not a folder. Check the path."
        )
    held_out = [root / name for name in HELD_OUT if (root / name).is_dir()][:1]
    # Without held-out images, a folder called train is a class among others, unless it is alone.
    if held_out or _classes(root) == ["train"]:
        return held_out + [root / "train"] * (root / "train").is_dir()
    return [root]


def _split_folder(root: Path, split: str) -> Path:
    splits = _splits(root)
    for folder in splits:
        if folder == root or (folder.name == "train") == (split == "train"):
            return folder
    wanted = ["train"] if split == "train" else HELD_OUT
    raise DatasetError(
        f"A folder with splits holds the one that is asked for; {root} holds {splits[0].name} but "
        f"not {' or '.join(wanted)}. Add it, or pass folder:{splits[0]} for all uses."
    )


def _classes(folder: Path) -> Sequence[str]:
    """Names of the subfolders; hidden ones belong to some program, not to the images."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _tabled(root: Path) -> Listing:
    images = root / "images" if (root / "images").is_dir() else root
    try:
        with (root / TABLE).open(newline="", encoding="utf-8") as file:
            rows = [(images / row["file"], int(row["label"])) for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{TABLE} has the columns file and label, and labels are integers; {root / TABLE} does "
            f"not ({type(error).__name__}: {error}). Mend the table."
        ) from error
    if not rows:
        raise DatasetError(
            f"{TABLE} names images; {root / TABLE} names none. Fill it or delete it."
        )
    return Listing(tuple(path for path, _ in rows), tuple(label for _, label in rows))
