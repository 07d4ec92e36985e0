"""``qbench data``: which datasets there are, getting them, looking for broken images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench_suite.errors import BrokenImageError, DatasetError, QBenchError

if TYPE_CHECKING:
    from qbench_suite.datasets import DatasetEntry
    from qbench_suite.manager import Manager

#: Exit status of a command that was interrupted.
INTERRUPTED = 130


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``qbench data fetch|list|check``."""
    data = commands.add_parser(
        "data", help="which datasets are there, get them, check their images"
    )
    actions = data.add_subparsers(required=True, metavar="ACTION")
    fetch = actions.add_parser("fetch", help="download and unpack datasets; goes on after a break")
    fetch.add_argument("names", nargs="+", metavar="NAME")
    fetch.set_defaults(run=lambda options: _interruptible(_fetch, options))
    show = actions.add_parser("list", help="datasets, their classes, and whether they are there")
    show.set_defaults(run=lambda options: _interruptible(_list, options))
    check = actions.add_parser("check", help="decode all images of a dataset and name broken ones")
    check.add_argument("name", metavar="NAME")
    check.add_argument("--split", choices=("test", "train"), default="test")
    check.set_defaults(run=lambda options: _interruptible(_check, options))
    for action in (fetch, show, check):
        action.add_argument(
            "--plugin", action="append", default=[], type=Path, metavar="FILE", help="load it, too"
        )


def _interruptible(run: Any, options: argparse.Namespace) -> int:
    from qbench_suite.manager import default_manager

    try:
        status: int = run(default_manager(files=options.plugin), options)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    return status


def _fetch(manager: Manager, options: argparse.Namespace) -> int:
    """Prepare each dataset; one that fails does not keep the others from being tried."""
    failed = 0
    for entry in [manager.datasets.get(name) for name in options.names]:
        try:
            print(f"{entry.name}: {_prepare(entry)}", flush=True)
        except QBenchError as error:
            print(f"{entry.name}: {error}", file=sys.stderr)
            failed = 1
    return failed


def _prepare(entry: DatasetEntry) -> str:
    if entry.prepare is None:
        return f"nothing to fetch; {entry.location() if entry.location else 'it is part of its plugin'}"
    try:
        return str(entry.prepare())
    except QBenchError:
        raise
    except Exception as error:
        raise DatasetError(
            f"A dataset's prepare() returns where it lies; that of {entry.name} raised "
            f"{type(error).__name__}: {error}. Mend the plugin that provides it."
        ) from error


def _list(manager: Manager, _: argparse.Namespace) -> int:
    rows = [("dataset", "classes", "there", "size", "where"), *map(_row, manager.datasets)]
    rows += [(family, "", "", "", "any") for family in manager.datasets.families()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    return 0


def _row(entry: DatasetEntry) -> tuple[str, ...]:
    place = entry.location() if entry.location else None
    there = _is_there(entry)
    size = _size(place) if there and place else ""
    classes = str(entry.num_classes or "")
    return (entry.name, classes, "yes" if there else "no", size, str(place or "with its plugin"))


def _is_there(entry: DatasetEntry) -> bool:
    try:
        entry.load("test")
    except Exception:  # a plugin may raise anything where its files are missing
        return False
    return True


def _size(place: Path) -> str:
    from rich.filesize import decimal

    files = [place] if place.is_file() else place.rglob("*")
    return decimal(sum(file.stat().st_size for file in files if file.is_file()))


def _check(manager: Manager, options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import track

    try:
        entry = manager.datasets.get(options.name)
    except DatasetError as error:  # it is found, and wrong: its table of labels, for instance
        print(error)
        return 1
    images: Any = (entry.load_images or entry.load)(options.split)
    labels: set[int] = set()
    broken = 0
    indices = track(
        range(len(images)), f"checking {entry.name}", console=Console(stderr=True), transient=True
    )
    for index in indices:
        try:
            labels.add(int(images[index][1]))
        except BrokenImageError as error:
            broken += 1
            print(error)
        except Exception as error:  # of a plugin's own dataset
            broken += 1
            print(f"image {index}: {type(error).__name__}: {error}")
    print(
        f"{entry.name}, {options.split}: {len(images):,} images, {_classes(entry, labels)} classes, "
        f"{broken:,} broken"
    )
    return int(broken > 0 or not len(images))


def _classes(entry: DatasetEntry, labels: set[int]) -> str:
    """How many classes the labels are of, and of how many where some are missing by mistake."""
    found = sum(label >= 0 for label in labels)
    lacking = not entry.sparse_labels and found < entry.num_classes
    return f"{found:,} of {entry.num_classes:,}" if lacking else f"{found:,}"
