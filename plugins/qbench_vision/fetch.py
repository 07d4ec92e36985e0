"""Downloads: they go on after a break, and nothing unverified gets its name."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from rich import progress

from qbench_suite import DatasetError
from qbench_vision.storage import CONSOLE

#: Attempts in a row that may bring no byte before a download is given up.
ATTEMPTS = 3
#: Seconds to wait after the first such attempt; twice as many after the second.
PAUSE_S = 1.0
#: Seconds without a byte after which a connection counts as broken.
TIMEOUT_S = 30.0
#: Bytes read at a time.
CHUNK = 1 << 18
#: Statuses that a later attempt may find changed.
PASSING = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Archive:
    """A published file: where it is, and the MD5 that it has there."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        """Name of the file, the last part of the URL."""
        return self.url.rpartition("/")[2]


class _BrokenOffError(Exception):
    """The connection failed or ended early; what came is kept."""


def fetch(archive: Archive, folder: Path) -> Path:
    """Return the path of ``archive`` in ``folder``, downloaded where it is not there.

    Bytes are collected in ``<name>.part``, to which a later attempt or call adds where the server
    answers to ranges. It gets its name once its MD5 is right; a file with a wrong one is renamed to
    ``<name>.wrong``.

    Raises:
        DatasetError: there is no such file, no network, not enough room, or its MD5 is wrong.
        OSError: the disk is full or cannot be written.
    """
    target = folder / archive.name
    if target.is_file():
        if _md5(target) == archive.md5:
            return target
        CONSOLE.print(
            f"{target} is not what {archive.url} is; kept as {_set_aside(target, target)}"
        )
    part = target.with_name(f"{target.name}.part")
    with _bar(archive.name) as show:
        _download(archive.url, part, target, show)
    found = _md5(part)
    if found != archive.md5:
        raise DatasetError(
            f"A download has the MD5 that is published, {archive.md5}; the {part.stat().st_size:,} "
            f"bytes of {archive.url} have {found}, and are kept as {_set_aside(part, target)}. Run the "
            "same command again; where that does not help, look into the file: it may be the page "
            f"of a proxy. {_by_hand(archive.url, target)}"
        )
    part.replace(target)
    return target


def _download(url: str, part: Path, target: Path, show: Callable[[int, int | None], None]) -> None:
    fruitless = 0
    while True:
        had = _size(part)
        try:
            return _receive(url, part, target, show)
        except _BrokenOffError as error:
            fruitless = 0 if _size(part) > had else fruitless + 1
            if fruitless == ATTEMPTS:
                raise DatasetError(
                    f"A download needs a network and a server that answers; {url} failed {ATTEMPTS} "
                    f"times in a row ({error}). Run the same command again: it goes on after the "
                    f"{_size(part):,} bytes that are there. {_by_hand(url, target)}"
                ) from error
            time.sleep(PAUSE_S * fruitless)


def _receive(url: str, part: Path, target: Path, show: Callable[[int, int | None], None]) -> None:
    """Add to ``part`` what it lacks of ``url``; all of it where the server knows no ranges."""
    had = _size(part)
    response = _ask(url, had, target)
    if response is None:
        return
    with response:
        added = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if added and not response.headers.get("Content-Range", "").startswith(f"bytes {had}-"):
            part.unlink()
            raise _BrokenOffError("the server sent another range than it was asked for")
        length = response.headers.get("Content-Length")
        missing = int(length) if length else None
        _check_room(part.parent, missing or 0)
        whole = None if missing is None else missing + had * added
        with part.open("ab" if added else "wb") as file:
            show(had * added, whole)
            for chunk in _chunks(response):
                file.write(chunk)
                show(file.tell(), whole)
    if whole is not None and _size(part) < whole:
        raise _BrokenOffError(f"the connection ended after {_size(part):,} of {whole:,} bytes")


def _ask(url: str, start: int, target: Path) -> http.client.HTTPResponse | None:
    """The response for the bytes from ``start`` on; None where there are none."""
    ranges = {"Range": f"bytes={start}-"} if start else {}
    request = Request(url, headers={"User-Agent": "qbench", **ranges})  # noqa: S310 - http(s) only
    try:
        response: http.client.HTTPResponse = urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
    except HTTPError as error:
        if start and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        if error.code in PASSING:
            raise _BrokenOffError(str(error)) from error
        raise DatasetError(
            f"A published file is at its URL; {url} answers {error}. {_by_hand(url, target)}"
        ) from error
    except (URLError, OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(str(getattr(error, "reason", "") or error)) from error
    return response


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(CHUNK)
        except http.client.IncompleteRead as error:
            chunk = error.partial
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenOffError(f"{type(error).__name__}: {error}") from error
        if not chunk:
            return
        yield chunk


def _check_room(folder: Path, missing: int) -> None:
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise DatasetError(
            f"A download fits its disk; {missing:,} bytes are missing and {folder} has room for "
            f"{free:,}. Free some space there, or set QBENCH_DATA to a folder on a larger disk."
        )


def _by_hand(url: str, target: Path) -> str:
    return f"By hand: download {url} elsewhere and put it at {target}."


def _set_aside(path: Path, target: Path) -> Path:
    return path.replace(target.with_name(f"{target.name}.wrong"))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yield ``show(bytes there, bytes in all)``, which moves a bar on a terminal."""
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=CONSOLE) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
