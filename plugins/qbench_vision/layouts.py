"""Which images a folder holds, and how they are labelled."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
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
#: The greatest label.
MAX_LABEL = 2**31 - 1
_LABELS = f"a label is an integer from 0 to {MAX_LABEL}, or {UNLABELLED} for an image without one"


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

    Labels come from ``labels.csv``, else from subfolders, one a class, else there are none. The table
    is in UTF-8, with or without a byte order mark; its files lie within the folder of the images, its
    labels are 0 … 2³¹ − 1, or −1 for an image without one, and a file that it names twice has one.

    Raises:
        DatasetError: ``root`` is no folder, or holds no such split, no images, or a wrong table.
    """
    if has_table(root):
        return _tabled(root)
    folder = _split_folder(root, split)
    listing = list_classes(folder, {name: at for at, name in enumerate(class_names(root))})
    if not listing.paths:
        flat = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMG_EXTENSIONS)
        listing = Listing(tuple(flat), (UNLABELLED,) * len(flat))
    if not listing.paths:
        raise DatasetError(
            f"A folder dataset holds images, in one subfolder a class or all in the folder; {folder} "
            f"holds no file that ends in {', '.join(IMG_EXTENSIONS)}. Check the path."
        )
    return listing


def list_classes(folder: Path, labels: Mapping[str, int]) -> Listing:
    """Return the images in subfolders of ``folder`` that ``labels`` names, sorted; it may be empty."""
    if not labels:
        return Listing((), ())
    samples = make_dataset(folder, dict(labels), extensions=IMG_EXTENSIONS, allow_empty=True)
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
    """The images of the table, in its order."""
    images = root / "images" if (root / "images").is_dir() else root
    table = root / TABLE
    labels: dict[str, int] = {}
    listed: list[tuple[Path, int]] = []
    try:
        # A spreadsheet writes a byte order mark, which would belong to the first heading.
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            _check_headings(table, reader.fieldnames or ())
            for row in reader:
                where = f"{table}, line {reader.line_num}"
                name, label = _file(where, row["file"]), _label(where, row["label"])
                if labels.setdefault(name, label) != label:
                    raise _mistake(
                        where, "a file has one label", f"{label} for {name}, {labels[name]} before"
                    )
                listed.append((images / name, label))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _mistake(str(table), "it is CSV in UTF-8", str(error)) from error
    if not listed:
        raise DatasetError(f"{TABLE} names images; {table} names none. Fill it or delete it.")
    return Listing(tuple(path for path, _ in listed), tuple(label for _, label in listed))


def _check_headings(table: Path, found: Sequence[str]) -> None:
    if not {"file", "label"} <= set(found):
        headings = ", ".join(map(repr, found)) or "no headings"
        raise _mistake(f"{table}, line 1", "columns are file and label", headings)


def _file(where: str, cell: str | None) -> str:
    """The path of an image below the folder of the images, in one spelling."""
    path = Path(os.path.normpath(cell or ""))
    if not path.parts or path.is_absolute() or path.parts[0] == os.pardir:
        raise _mistake(where, "a file is named by its path within the folder of images", repr(cell))
    return str(path)


def _label(where: str, cell: str | None) -> int:
    if cell is None or not re.fullmatch(r"\s*[+-]?[0-9]{1,10}\s*", cell):
        raise _mistake(where, _LABELS, repr(cell))
    if not UNLABELLED <= int(cell) <= MAX_LABEL:
        raise _mistake(where, _LABELS, repr(cell))
    return int(cell)


def _mistake(where: str, invariant: str, received: str) -> DatasetError:
    return DatasetError(f"{where}: {invariant}; got {received}. Mend the table.")
