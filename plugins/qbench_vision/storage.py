"""Where datasets lie, and how an archive becomes a folder there: whole, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from qbench_suite import DatasetError

#: Where preparations say what they do; standard output is for results.
CONSOLE = Console(stderr=True, highlight=False, soft_wrap=True)


def data_folder() -> Path:
    """Return the folder of downloaded datasets: ``$QBENCH_DATA``, or ``~/.cache/qbench/data``."""
    return Path(os.environ.get("QBENCH_DATA") or "~/.cache/qbench/data").expanduser()


@contextmanager
def preparing(name: str, folder: Path | None = None) -> Iterator[Path]:
    """Yield ``folder`` (that of downloaded datasets), made where it is missing.

    Within it no other process prepares ``name``.

    Raises:
        DatasetError: the folder cannot be made or written, or whatever runs within it cannot write.
    """
    root = folder or data_folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f".{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            CONSOLE.print(f"{name}: another process is at it; waiting for that")
            lock.acquire()
        try:
            yield root
        finally:
            lock.release()
    except OSError as error:
        raise unwritable(root, error) from error


def unpack(
    archive: Path, member: str, finish: Callable[[Path], object] = lambda _folder: None
) -> Path:
    """Unpack ``archive`` beside itself; return the folder in it that is called ``member``.

    ``finish`` is called with that folder before it gets its name, so that whatever dies on the way
    leaves nothing that looks prepared, and the next attempt starts anew.

    Raises:
        DatasetError: the archive is no whole archive, or does not hold ``member``.
        OSError: the disk is full or cannot be written.
    """
    scratch = archive.parent / f".{member}.unpacking"
    if scratch.exists():
        shutil.rmtree(scratch)
    CONSOLE.print(f"unpacking {archive}")
    try:
        # Members of a tar archive could else be written anywhere; Python before 3.11.4 has no filter.
        if archive.suffix == ".zip" or not hasattr(tarfile, "data_filter"):
            shutil.unpack_archive(archive, scratch)
        else:
            shutil.unpack_archive(archive, scratch, filter="data")
    except Exception as error:  # each kind of archive has errors of its own
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the archive's
        raise DatasetError(
            f"An archive unpacks whole; {archive} does not ({type(error).__name__}: {error}). Delete "
            "it and fetch it again."
        ) from error
    finish(scratch / member)
    (scratch / member).replace(archive.parent / member)
    shutil.rmtree(scratch)
    return archive.parent / member


def absent(name: str, folder: Path) -> DatasetError:
    """Return the error of a dataset that is not where it would be once prepared."""
    return DatasetError(
        f"{name} lies in {folder} once it is prepared; it is not there, or not whole. Run `qbench "
        f"data fetch {name}`, or set QBENCH_DATA to the folder that holds {folder.name}."
    )


def unwritable(folder: Path, error: OSError) -> DatasetError:
    """Return the error of a folder that cannot be written; a full disk is told from the rest."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DatasetError(
            f"A dataset fits its disk; {folder} is full ({error}). Free some space there, or set "
            "QBENCH_DATA to a folder on a larger disk, and run the same command again."
        )
    return DatasetError(
        f"Datasets are kept in a folder that can be written; {folder} cannot "
        f"({type(error).__name__}: {error}). Mend its permissions, or set QBENCH_DATA to another one."
    )
